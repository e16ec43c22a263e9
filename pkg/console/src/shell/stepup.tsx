// Asking for a second factor in place: a change that needs one waits here, and goes on when it was given.
import { lazy, Suspense, useEffect, useRef, useState } from "react";
import { session, type Problem } from "@/api/client";

const Ask = lazy(() => import("./factor").then((m) => ({ default: m.AskInDialog })));

interface Waiting {
  problem: Problem;
  done: (given: boolean) => void;
}

/** StepUp is where the question is shown. One at a time: what else needs a factor meanwhile waits for the same one. */
export function StepUp() {
  const [waiting, setWaiting] = useState<Waiting | null>(null);
  const current = useRef<Promise<boolean> | null>(null);
  useEffect(() => {
    session.stepUp = (problem) => {
      current.current ??= new Promise<boolean>((resolve) => {
        setWaiting({
          problem,
          done: (given) => {
            current.current = null;
            setWaiting(null);
            resolve(given);
          },
        });
      });
      return current.current;
    };
    return () => {
      session.stepUp = () => Promise.resolve(false);
    };
  }, []);
  if (!waiting) return null;
  return (
    <Suspense fallback={null}>
      <Ask problem={waiting.problem} onDone={waiting.done} />
    </Suspense>
  );
}
