// What a person chose on this device: theme, and the zone of times. And the clock that relative times share.
import { useCallback, useSyncExternalStore } from "react";
import type { Zone } from "./time";

export type Theme = "light" | "dark" | "system";

export interface Preferences {
  theme: Theme;
  zone: Zone;
}

function read(): Preferences {
  let theme: Theme = "system";
  let zone: Zone = "local";
  try {
    const t = localStorage.getItem("theme");
    if (t === "light" || t === "dark") theme = t;
    if (localStorage.getItem("zone") === "utc") zone = "utc";
  } catch {
    // Storage may be forbidden: what is chosen then lasts as long as the page.
  }
  return { theme, zone };
}

let current: Preferences = typeof localStorage === "undefined" ? { theme: "system", zone: "local" } : read();
const listeners = new Set<() => void>();

function subscribe(fn: () => void): () => void {
  listeners.add(fn);
  return () => listeners.delete(fn);
}

export function usePreferences(): Preferences {
  return useSyncExternalStore(subscribe, () => current);
}

export function prefer(change: Partial<Preferences>): void {
  current = { ...current, ...change };
  try {
    if (current.theme === "system") localStorage.removeItem("theme");
    else localStorage.setItem("theme", current.theme);
    localStorage.setItem("zone", current.zone);
  } catch {
    // As above.
  }
  paint();
  for (const fn of listeners) fn();
}

/** paint puts the theme into force. */
export function paint(): void {
  const dark = current.theme === "dark" || (current.theme === "system" && matchMedia("(prefers-color-scheme: dark)").matches);
  document.documentElement.dataset["theme"] = dark ? "dark" : "light";
}

// One clock for all relative times: a page of a thousand rows has one timer, and moves together.
let now = new Date();
let timer = 0;
const watchers = new Set<() => void>();

function watchClock(fn: () => void): () => void {
  watchers.add(fn);
  if (watchers.size === 1) {
    now = new Date();
    timer = window.setInterval(() => {
      now = new Date();
      for (const watcher of watchers) watcher();
    }, 10_000);
  }
  return () => {
    watchers.delete(fn);
    if (watchers.size === 0) window.clearInterval(timer);
  };
}

const readClock = (): Date => now;

export function useNow(): Date {
  return useSyncExternalStore(watchClock, readClock);
}

export function useMedia(query: string): boolean {
  const subscribe = useCallback(
    (fn: () => void) => {
      const list = matchMedia(query);
      list.addEventListener("change", fn);
      return () => list.removeEventListener("change", fn);
    },
    [query],
  );
  return useSyncExternalStore(subscribe, () => matchMedia(query).matches);
}

/** useNarrow is true where a list has room for one column. */
export function useNarrow(): boolean {
  return useMedia("(max-width: 47.99rem)");
}
