// A log that is followed: lines as they come, of which the page holds those that can be seen, with a filter, a pause and a
// copy to keep. It comes over a WebSocket through the gateway, which records that it was read.
import { ArrowDown, Download, Pause, Play } from "lucide-react";
import { useEffect, useLayoutEffect, useMemo, useRef, useState } from "react";
import { socketURL } from "@/api/rack";
import { level, Lines, type LogLine } from "@/lib/logline";
import { usePreferences } from "@/lib/preferences";
import { visible } from "@/lib/rows";
import { clock, exact } from "@/lib/time";
import { Button, IconButton, SearchField } from "@/ui/controls";
import { cx } from "@/ui/cx";
import { Dot, type Meaning } from "@/ui/display";

const kept = 20_000;
const lineHeight = 20;

type Phase = "connecting" | "following" | "ended" | "dropped" | "refused";

const phases: Record<Phase, [Meaning, string]> = {
  connecting: ["none", "connecting"],
  following: ["ok", "following"],
  ended: ["none", "it has ended"],
  dropped: ["warn", "the connection dropped; it is made again"],
  refused: ["bad", "it could not be opened"],
};

export function LogView({ at, name, filter, onFilter }: { at: string; name: string; filter?: string; onFilter?: (filter: string) => void }) {
  const [own, setOwn] = useState("");
  const typed = filter ?? own;
  const setTyped = onFilter ?? setOwn;
  const { zone } = usePreferences();
  const [paused, setPaused] = useState(false);
  const { lines, phase, dropped, retry } = useLog(at, paused);
  const shown = useMemo(() => {
    const words = typed.toLowerCase().split(/\s+/).filter(Boolean);
    return words.length === 0 ? lines : lines.filter((l) => words.every((w) => l.text.toLowerCase().includes(w) || l.source.toLowerCase().includes(w)));
  }, [lines, typed]);

  const box = useRef<HTMLDivElement>(null);
  const [stuck, setStuck] = useState(true);
  const [span, setSpan] = useState({ from: 0, to: 60 });
  const measure = () => {
    const el = box.current;
    if (!el) return;
    const next = visible(shown.length, lineHeight, el.scrollTop, el.clientHeight);
    setSpan((old) => (old.from === next.from && old.to === next.to ? old : next));
  };
  useLayoutEffect(() => {
    const el = box.current;
    if (el && stuck) el.scrollTop = el.scrollHeight;
    measure();
    // eslint-disable-next-line react-hooks/exhaustive-deps -- after each batch of lines
  }, [shown, stuck]);

  const download = () => {
    const text = shown.map((l) => `${l.at ? exact(l.at, "utc") + " " : ""}${l.source ? l.source + " " : ""}${l.text}`).join("\n") + "\n";
    const url = URL.createObjectURL(new Blob([text], { type: "text/plain" }));
    const a = document.createElement("a");
    a.href = url;
    a.download = `${name.replace(/[^A-Za-z0-9._-]+/g, "-")}.log`;
    a.click();
    window.setTimeout(() => URL.revokeObjectURL(url), 10_000);
  };
  const [meaning, text] = phases[phase];
  const from = Math.min(span.from, shown.length);
  return (
    <div className="grid gap-2">
      <div className="flex flex-wrap items-center gap-2">
        <SearchField label="Filter the lines" value={typed} onChange={setTyped} className="min-w-40 flex-1 sm:max-w-80" />
        <Button onClick={() => setPaused(!paused)} aria-pressed={paused}>
          {paused ? <Play aria-hidden /> : <Pause aria-hidden />}
          {paused ? "Go on" : "Pause"}
        </Button>
        <IconButton label="Download these lines" size="md" tone="plain" onClick={download} disabled={shown.length === 0}>
          <Download aria-hidden />
        </IconButton>
        <span role="status" className="flex items-center gap-2 text-note text-ink-3">
          <Dot meaning={paused ? "none" : meaning} pulse={phase === "connecting"} />
          {paused ? "paused; what comes meanwhile is kept" : text}
        </span>
        {(phase === "refused" || phase === "ended") && (
          <Button size="sm" onClick={retry}>
            Open it again
          </Button>
        )}
        <span className="num ml-auto text-note text-ink-3">
          {shown.length === lines.length ? `${lines.length.toLocaleString("en")} lines` : `${shown.length.toLocaleString("en")} of ${lines.length.toLocaleString("en")} lines`}
          {dropped > 0 && `, ${dropped.toLocaleString("en")} older ones let go`}
        </span>
      </div>
      <div className="relative">
        <div
          ref={box}
          role="log"
          aria-label={`Log of ${name}`}
          aria-live="off"
          tabIndex={0}
          onScroll={(e) => {
            const el = e.currentTarget;
            setStuck(el.scrollHeight - el.scrollTop - el.clientHeight < lineHeight * 2);
            measure();
          }}
          className="h-[min(65vh,44rem)] overflow-auto overscroll-contain rounded-md border border-line bg-sunken font-mono text-note"
        >
          {shown.length === 0 ? (
            <p className="p-4 font-sans text-row text-ink-3">{lines.length > 0 ? "No line has this in it." : phase === "following" ? "Nothing was written in the last minutes. What comes shows here." : phase === "refused" ? "The log could not be opened: you may not read it, or it is gone." : ""}</p>
          ) : (
            <div className="relative w-max min-w-full" style={{ height: shown.length * lineHeight }}>
              <div className="absolute top-0 left-0 min-w-full" style={{ transform: `translateY(${from * lineHeight}px)` }}>
                {shown.slice(from, span.to).map((l) => (
                  <Line key={l.id} line={l} zone={zone} />
                ))}
              </div>
            </div>
          )}
        </div>
        {!stuck && shown.length > 0 && (
          <Button
            size="sm"
            className="absolute right-4 bottom-4 shadow-float"
            onClick={() => {
              setStuck(true);
              box.current?.scrollTo({ top: box.current.scrollHeight });
            }}
          >
            <ArrowDown aria-hidden />
            To the newest
          </Button>
        )}
      </div>
    </div>
  );
}

function Line({ line: l, zone }: { line: LogLine; zone: "local" | "utc" }) {
  const grave = level(l.text);
  return (
    <div className={cx("flex h-5 gap-3 px-3 leading-5 whitespace-pre hover:bg-hover", grave === "bad" && "text-bad", grave === "warn" && "text-warn")}>
      {l.at && <span className="shrink-0 text-ink-3 select-none">{clock(l.at, zone)}</span>}
      {l.source && <span className="shrink-0 text-ink-3 select-none">{l.source.replace(/^service\//, "")}</span>}
      <bdi>{l.text}</bdi>
    </div>
  );
}

/** useLog follows a log. Lines come in bursts, so they are shown a few times a second. */
function useLog(at: string, paused: boolean): { lines: LogLine[]; phase: Phase; dropped: number; retry: () => void } {
  const [lines, setLines] = useState<LogLine[]>([]);
  const [phase, setPhase] = useState<Phase>("connecting");
  const [dropped, setDropped] = useState(0);
  const [attempt, setAttempt] = useState(0);
  const waiting = useRef<LogLine[]>([]);
  const holding = useRef(paused);
  holding.current = paused;
  useEffect(() => {
    setLines([]);
    setDropped(0);
    waiting.current = [];
  }, [at]);
  useEffect(() => {
    let over = false;
    let opened = false;
    let ended = false;
    let timer = 0;
    const cutter = new Lines();
    const decoder = new TextDecoder();
    setPhase("connecting");
    const base = attempt * 10_000_000;
    const socket = new WebSocket(socketURL(at));
    socket.binaryType = "arraybuffer";
    socket.onopen = () => {
      opened = true;
      setPhase("following");
    };
    socket.onmessage = (e: MessageEvent<string | ArrayBuffer>) => {
      // An empty binary message is how racks end a stream.
      if (typeof e.data !== "string" && e.data.byteLength === 0) {
        ended = true;
        socket.close();
        return;
      }
      const piece = typeof e.data === "string" ? e.data : decoder.decode(e.data, { stream: true });
      for (const l of cutter.push(piece)) waiting.current.push({ ...l, id: base + l.id });
    };
    socket.onclose = () => {
      if (over) return;
      for (const l of cutter.end()) waiting.current.push({ ...l, id: base + l.id });
      if (ended) setPhase("ended");
      else if (!opened) setPhase("refused");
      else {
        setPhase("dropped");
        timer = window.setTimeout(() => setAttempt((n) => n + 1), 3000);
      }
    };
    const flush = window.setInterval(() => {
      if (holding.current || waiting.current.length === 0) return;
      const more = waiting.current;
      waiting.current = [];
      setLines((old) => {
        const all = [...old, ...more];
        if (all.length <= kept) return all;
        setDropped((n) => n + all.length - kept);
        return all.slice(-kept);
      });
    }, 150);
    return () => {
      over = true;
      window.clearInterval(flush);
      window.clearTimeout(timer);
      socket.close();
    };
  }, [at, attempt]);
  return { lines, phase, dropped, retry: () => setAttempt((n) => n + 1) };
}
