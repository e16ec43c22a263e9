// A search field that is part of the address, without an address for each letter.
import { useRouter } from "@tanstack/react-router";
import { useEffect, useRef, useState } from "react";

/** useTyped holds what is typed, and hands it on once nobody types any more. */
export function useTyped(value: string | undefined, commit: (value: string | undefined) => void): [string, (value: string) => void] {
  const router = useRouter();
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
    const at = router.latestLocation.pathname;
    const timer = window.setTimeout(() => {
      // Somebody who has gone on meanwhile is not called back.
      if (router.latestLocation.pathname !== at) return;
      last.current = typed;
      handler.current(typed === "" ? undefined : typed);
    }, 200);
    return () => window.clearTimeout(timer);
  }, [typed, router]);
  return [typed, setTyped];
}
