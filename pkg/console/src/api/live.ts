// What tells the page that something has changed: one stream of Server-Sent Events, whose messages name what is no longer as
// it was and nothing else. Pages then ask for what they show, with the rights that the person has by then.
//
// When the stream drops, the browser comes back by itself; once it has, everything that is shown is asked for again, because
// nobody knows what was missed. A console that nobody has touched for a while stops listening, so that a forgotten tab does
// not keep a session alive for ever; the first key or click goes on.
import type { QueryClient } from "@tanstack/react-query";
import { apiBase } from "./client";

export type LiveState = "connecting" | "live" | "down" | "paused";

/** What a message of the stream may name, and which questions it concerns. */
export const topics: Record<string, readonly string[][]> = {
  people: [["users"], ["me"], ["overview"]],
  tokens: [["tokens"], ["overview"]],
  sessions: [["sessions"], ["overview"]],
  roles: [["roles"], ["me"]],
  settings: [["settings"], ["overview"]],
  record: [["overview"], ["audit", "live"]],
  challenges: [["step-ups"]],
  rack: [["rack"]],
};

const idleAfter = 10 * 60_000;

export class Live {
  state: LiveState = "connecting";
  #source: EventSource | undefined;
  #listeners = new Set<() => void>();
  #client: QueryClient;
  #touched = Date.now();
  #missed = false;
  #timer = 0;
  #retry = 0;
  #pending = new Set<string>();
  #flush = 0;

  constructor(client: QueryClient) {
    this.#client = client;
  }

  subscribe = (fn: () => void): (() => void) => {
    this.#listeners.add(fn);
    return () => this.#listeners.delete(fn);
  };

  snapshot = (): LiveState => this.state;

  start(): () => void {
    const touch = () => {
      this.#touched = Date.now();
      if (this.state === "paused") this.#open();
    };
    const events = ["pointerdown", "keydown", "wheel", "touchstart"] as const;
    for (const name of events) window.addEventListener(name, touch, { passive: true });
    this.#timer = window.setInterval(() => {
      if (this.state !== "paused" && Date.now() - this.#touched > idleAfter) this.#pause();
    }, 15_000);
    this.#open();
    return () => {
      for (const name of events) window.removeEventListener(name, touch);
      window.clearInterval(this.#timer);
      window.clearTimeout(this.#retry);
      window.clearTimeout(this.#flush);
      this.#source?.close();
    };
  }

  #set(state: LiveState): void {
    if (this.state === state) return;
    this.state = state;
    for (const fn of this.#listeners) fn();
  }

  #pause(): void {
    this.#source?.close();
    this.#missed = true;
    this.#set("paused");
  }

  #open(): void {
    window.clearTimeout(this.#retry);
    this.#source?.close();
    const source = new EventSource(apiBase + "/live");
    this.#source = source;
    this.#set("connecting");
    source.onopen = () => {
      this.#set("live");
      if (this.#missed) void this.#client.invalidateQueries();
      this.#missed = false;
    };
    source.onerror = () => {
      this.#missed = true;
      this.#set("down");
      // The browser comes back after a drop. After an answer that is no stream, such as that the session has ended, it
      // does not: then it is for us to ask, and rarely.
      if (source.readyState === EventSource.CLOSED) this.#retry = window.setTimeout(() => this.#open(), 10_000);
    };
    source.addEventListener("changed", (e: MessageEvent<string>) => {
      for (const topic of e.data.split(" ")) this.#pending.add(topic);
      // What comes in a burst is asked for once.
      if (this.#flush === 0) this.#flush = window.setTimeout(() => this.#deliver(), 250);
    });
  }

  #deliver(): void {
    this.#flush = 0;
    for (const topic of this.#pending) for (const queryKey of topics[topic] ?? []) void this.#client.invalidateQueries({ queryKey });
    this.#pending.clear();
  }
}
