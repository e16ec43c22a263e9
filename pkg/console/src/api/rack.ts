// What the rack says, asked through the gateway as the person who looks. These are the rack's own shapes, as far as the
// console reads them; whatever comes may lack any of it.
import { apiBase, queryString, send, type QueryValues } from "./client";

export interface System {
  name: string;
  provider: string;
  region: string;
  version: string;
  status: string;
  type: string;
  count: number;
  domain: string;
}

export interface App {
  name: string;
  status: string;
  release: string;
  locked: boolean;
  generation?: string;
  router?: string;
  parameters?: Record<string, string> | null;
}

export interface ServicePort {
  balancer: number;
  container: number;
}

export interface Service {
  name: string;
  count: number;
  cpu: number;
  memory: number;
  domain: string;
  ports: ServicePort[] | null;
  min?: number;
  max?: number;
  autoscale?: { enabled: boolean };
}

export interface Process {
  id: string;
  app: string;
  command: string;
  cpu: number;
  memory: number;
  instance: string;
  name: string;
  release: string;
  started: string;
  status: string;
}

export interface Build {
  id: string;
  app: string;
  description: string;
  release: string;
  reason: string;
  status: string;
  started: string;
  ended: string;
  manifest: string;
  "git-sha": string;
}

export interface Release {
  id: string;
  app: string;
  build: string;
  env: string;
  description: string;
  created: string;
}

export interface Resource {
  name: string;
  type: string;
  status?: string;
  url: string;
  parameters?: Record<string, string>;
}

export interface Instance {
  id: string;
  status: string;
  started: string;
  processes: number;
  cpu: number;
  memory: number;
  "cpu-capacity": number;
  "memory-capacity": number;
  "private-ip": string;
  "public-ip": string;
  agent: boolean;
}

/** path builds a path of the rack's API from segments, each of which is escaped by itself. */
export function path(...segments: string[]): string {
  return "/" + segments.map(encodeURIComponent).join("/");
}

/** get asks the rack for JSON. */
export async function get<T>(at: string, query: QueryValues = {}, signal?: AbortSignal): Promise<T> {
  const answer = await send(apiBase + "/rack" + at + queryString(query), { method: "GET" }, {}, signal);
  return (await answer.json()) as T;
}

/** list asks for a list. A rack may say null where there is nothing. */
export async function list<T>(at: string, query: QueryValues = {}, signal?: AbortSignal): Promise<T[]> {
  return (await get<T[] | null>(at, query, signal)) ?? [];
}

/** change asks the rack to do something. What it takes goes as a form, as its own client sends it. */
export async function change(method: "POST" | "PUT" | "DELETE", at: string, form?: QueryValues): Promise<unknown> {
  const init: RequestInit = { method };
  const headers: Record<string, string> = {};
  if (form !== undefined) {
    headers["Content-Type"] = "application/x-www-form-urlencoded";
    const body = new URLSearchParams();
    for (const [name, value] of Object.entries(form)) {
      if (value !== undefined && value !== null) body.set(name, String(value));
    }
    init.body = body.toString();
  }
  const answer = await send(apiBase + "/rack" + at, init, headers);
  const text = await answer.text();
  try {
    return text === "" ? undefined : (JSON.parse(text) as unknown);
  } catch {
    return text;
  }
}

/** socketURL is where a log of the rack is followed. */
export function socketURL(at: string): string {
  const url = new URL(apiBase + "/rack" + at, location.href);
  url.protocol = url.protocol === "https:" ? "wss:" : "ws:";
  return url.href;
}

/** A rack's zero time means that there is none. */
export function isTime(text: string | undefined | null): text is string {
  return typeof text === "string" && text !== "" && !text.startsWith("0001-");
}
