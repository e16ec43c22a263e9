// Who is signed in, and what they may do. Pages are shown only once this is known. What a person may not do is not offered;
// whether it is allowed is decided by the gateway alone.
import { useQuery } from "@tanstack/react-query";
import { createContext, lazy, Suspense, useContext, useEffect, useMemo, useState, type ReactNode } from "react";
import { session, type Problem } from "@/api/client";
import { me as meQuery, type Me } from "@/api/queries";
import { Button } from "@/ui/controls";
import { Failure } from "@/ui/display";
import { Mark } from "./mark";

export interface Who extends Me {
  can: (permission: string) => boolean;
}

const Gate = lazy(() => import("./factor").then((m) => ({ default: m.Gate })));

const WhoContext = createContext<Who | null>(null);

export function useWho(): Who {
  const who = useContext(WhoContext);
  if (!who) throw new Error("useWho outside of SignedIn");
  return who;
}

export function useCan(permission: string): boolean {
  return useWho().can(permission);
}

/** signInAddress is where somebody signs in who then comes back to where they are. */
export function signInAddress(): string {
  return "/login/?return=" + encodeURIComponent(location.pathname + location.search);
}

export function SignedIn({ children }: { children: ReactNode }) {
  const query = useQuery(meQuery);
  const [ended, setEnded] = useState<Problem | null>(null);
  useEffect(() => {
    session.ended = (problem) => setEnded(problem);
    return () => {
      session.ended = () => undefined;
    };
  }, []);
  const data = query.data;
  // Known before any page asks for anything that changes.
  session.csrf = data?.csrf_token ?? "";
  const who = useMemo<Who | null>(() => {
    if (!data) return null;
    const rights = new Set(data.permissions);
    return { ...data, can: (permission) => rights.has(permission) };
  }, [data]);

  // Nobody was signed in to begin with: there is nothing to lose, so the way in is taken at once.
  const never = ended !== null && !data;
  useEffect(() => {
    if (never) location.replace(signInAddress());
  }, [never]);

  // Signing in is not done without a factor, where the gateway asks everybody for one.
  if (who?.factor && who.kind === "session" && (who.factor.enrolled ? !who.factor.verified && who.factor.required : who.factor.required)) {
    return (
      <Suspense fallback={null}>
        <Gate enrolled={who.factor.enrolled} />
      </Suspense>
    );
  }
  if (!who) {
    if (query.error !== null && !never) {
      return (
        <main className="mx-auto max-w-xl px-4 py-[15vh]">
          <Mark className="mb-6 size-8" />
          <h1 className="sr-only">Rack Gateway</h1>
          <Failure error={query.error} retry={() => void query.refetch()} />
        </main>
      );
    }
    return (
      <main className="grid min-h-dvh place-items-center">
        <h1 className="sr-only">Rack Gateway</h1>
        <span role="status" aria-label="Loading">
          <Mark className="size-8 animate-pulse" />
        </span>
      </main>
    );
  }
  return (
    <WhoContext.Provider value={who}>
      {children}
      {ended !== null && (
        <div className="fixed inset-0 z-80 grid place-items-center bg-scrim p-4" role="alertdialog" aria-modal="true" aria-labelledby="ended">
          <div className="w-full max-w-sm animate-rise rounded-lg border border-line bg-raised p-6 shadow-float">
            <h2 id="ended" className="mb-2 text-lead font-semibold">
              You are signed out
            </h2>
            <p className="mb-5 text-row text-ink-2">{ended.detail} What you see is as it was. Sign in to go on where you are.</p>
            <Button tone="primary" autoFocus onClick={() => location.assign(signInAddress())}>
              Sign in
            </Button>
          </div>
        </div>
      )}
    </WhoContext.Provider>
  );
}
