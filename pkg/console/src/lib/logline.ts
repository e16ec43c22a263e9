// Lines of a rack's logs: when, from whom, and the text, without what is meant for terminals.

export interface LogLine {
  id: number;
  at: Date | undefined;
  source: string;
  text: string;
}

// CSI and OSC sequences, and what else of control characters terminals act upon.
// eslint-disable-next-line no-control-regex
const terminal = /\u001b\[[0-?]*[ -/]*[@-~]|\u001b\][^\u0007\u001b]*(?:\u0007|\u001b\\)?|\u001b[@-_]|[\u0000-\u0008\u000b-\u001f\u007f\u0080-\u009f]/g;

const prefix = /^(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d+)?(?:Z|[+-]\d\d:\d\d)) (\S+) ?/;

/** parseLine splits a line in the form that racks write: TIME SOURCE TEXT. Any other line is text as a whole. */
export function parseLine(id: number, raw: string): LogLine {
  const line = raw.replace(terminal, "");
  const match = prefix.exec(line);
  if (!match) return { id, at: undefined, source: "", text: line };
  const at = new Date(match[1] ?? "");
  return { id, at: Number.isNaN(at.getTime()) ? undefined : at, source: match[2] ?? "", text: line.slice(match[0].length) };
}

/** Lines cuts a stream of pieces into lines: what comes may end in the middle of one. */
export class Lines {
  #rest = "";
  #next = 0;

  push(piece: string): LogLine[] {
    const parts = (this.#rest + piece).split("\n");
    this.#rest = parts.pop() ?? "";
    // A line without an end is not waited for without bound.
    if (this.#rest.length > 64 * 1024) {
      parts.push(this.#rest);
      this.#rest = "";
    }
    return parts.map((raw) => parseLine(this.#next++, raw.replace(/\r$/, "")));
  }

  end(): LogLine[] {
    const rest = this.#rest;
    this.#rest = "";
    return rest === "" ? [] : [parseLine(this.#next++, rest)];
  }
}

/** level guesses how grave a line is, to give it a colour and nothing else. */
export function level(text: string): "bad" | "warn" | undefined {
  const head = text.slice(0, 200);
  if (/\b(?:error|err|fatal|panic|exception|critical)\b/i.test(head) || /\bstatus[=: ]"?5\d\d\b/.test(head)) return "bad";
  if (/\bwarn(?:ing)?\b/i.test(head)) return "warn";
  return undefined;
}
