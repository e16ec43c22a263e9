// A search field that is part of the address, without an address for each letter.
import { useEffect, useRef, useState } from "react";

/** useTyped holds what is typed, and hands it on once nobody types any more. */
export function useTyped(value: string | undefined, commit: (value: string | undefined) => void): [string, (value: string) => void] {
  const [typed, setTyped] = useState(value ?? "");
  const last = useRef(value ?? "");
  const handler = useRef(commit);
  handler.current = commit;
  // Back and forward change the address from outside.
  useEffect(() => {
    if ((value ?? "") === last.current) return;
    last.current = value ?? "";
    setTyped(value ?? "");
  }, [value]);
  useEffect(() => {
    if (typed === last.current) return;
    const timer = window.setTimeout(() => {
      last.current = typed;
      handler.current(typed === "" ? undefined : typed);
    }, 200);
    return () => window.clearTimeout(timer);
  }, [typed]);
  return [typed, setTyped];
}
