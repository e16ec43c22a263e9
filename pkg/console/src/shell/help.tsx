import { Kbd } from "@/ui/display";
import { Dialog } from "@/ui/overlay";
import { places } from "./nav";
import { useWho } from "./who";

export function Help({ onClose }: { onClose: () => void }) {
  const who = useWho();
  const general: [string[], string][] = [
    [["Ctrl", "K"], "Search or jump to anything"],
    [["/"], "Search the list"],
    [["j"], "Next row"],
    [["k"], "Row before"],
    [["Enter"], "Open the row"],
    [["Esc"], "Close, or empty the search"],
    [["?"], "This list"],
  ];
  const row = (keys: string[], text: string) => (
    <li key={text} className="flex items-center justify-between gap-4 py-1">
      <span>{text}</span>
      <span className="flex gap-1">
        {keys.map((k) => (
          <Kbd key={k}>{k}</Kbd>
        ))}
      </span>
    </li>
  );
  return (
    <Dialog open onClose={onClose} title="Keyboard shortcuts" wide>
      <div className="grid gap-x-10 gap-y-6 text-row sm:grid-cols-2">
        <section>
          <h3 className="mb-1 text-note font-medium text-ink-3">Everywhere</h3>
          <ul>{general.map(([keys, text]) => row(keys, text))}</ul>
        </section>
        <section>
          <h3 className="mb-1 text-note font-medium text-ink-3">Go to</h3>
          <ul>{places.filter((p) => p.needs === undefined || who.can(p.needs)).map((p) => row(["g", p.key], p.label))}</ul>
        </section>
      </div>
    </Dialog>
  );
}
