// How the console asks the API: with the types of the OpenAPI document, the session's cookie, and the token that proves
// that a request comes from these pages. What goes wrong comes as one of three errors, each of which a page knows how to
// show: a Problem (the gateway answered), Offline (nobody answered), or an abort (nobody waits any more).
import type { components, paths } from "@schema";

export type Schemas = components["schemas"];
export type Problem = Pick<Schemas["Problem"], "status" | "code" | "detail"> & { request_id: string; field?: string | undefined; step_up?: { id: string; page: string } | undefined };

type Method = "get" | "post" | "put" | "delete";
type MethodOf<P extends keyof paths> = { [M in Method]: paths[P] extends Record<M, object> ? M : never }[Method];
type Has<P extends keyof paths, M extends Method> = paths[P] extends Record<M, infer O> ? O : never;
type Part<O, K extends string> = O extends { parameters: infer P } ? (P extends Partial<Record<K, infer V>> ? NonNullable<V> : never) : never;
type Body<O> = O extends { requestBody: { content: { "application/json": infer B } } } ? B : never;
type Json<R> = R extends { content: { "application/json": infer A } } ? A : undefined;
type Answer<O> = O extends { responses: infer R } ? { [S in keyof R & (200 | 201 | 204)]: Json<R[S]> }[keyof R & (200 | 201 | 204)] : never;

/** What a request carries, as the document says. */
export interface Options<O> {
  path?: Part<O, "path">;
  query?: Part<O, "query">;
  body?: Body<O>;
  signal?: AbortSignal | undefined;
}

/** ProblemError is an answer that is a problem. */
export class ProblemError extends Error {
  readonly problem: Problem;
  /** Seconds, when the gateway said when to try again. */
  readonly retryAfter: number | undefined;
  constructor(problem: Problem, retryAfter?: number) {
    super(problem.detail);
    this.name = "ProblemError";
    this.problem = problem;
    this.retryAfter = retryAfter;
  }
}

/** OfflineError says that no answer came: the network, or the gateway itself, is away. */
export class OfflineError extends Error {
  constructor(cause: unknown) {
    super("The gateway cannot be reached. Check your connection; this page tries again by itself.", { cause });
    this.name = "OfflineError";
  }
}

export const apiBase = "/api/v1";

/** Session holds what requests of this page are proved with, and whom to tell that it has ended. */
export const session = {
  csrf: "",
  /** Called when an answer says that nobody is signed in any more. */
  ended: (_problem: Problem): void => undefined,
  /** Asks the person for a second factor; true when one was given, and the request can be repeated. */
  stepUp: (_problem: Problem): Promise<boolean> => Promise.resolve(false),
};

/** Codes of answers that a second factor helps against, and the one that says that there is none to give yet. */
const wantsFactor = new Set(["factor-needed", "sign-in-factor-needed", "enrolment-needed"]);

export function needsStepUp(problem: Problem): boolean {
  return (problem.status === 403 || problem.status === 401) && wantsFactor.has(problem.code);
}

/** call asks for an operation of the document. */
export async function call<P extends keyof paths, M extends MethodOf<P>>(method: M, path: P, options: Options<Has<P, M>> = {}): Promise<Answer<Has<P, M>>> {
  const variables = (options.path ?? {}) as Record<string, string>;
  const url = apiBase + path.replace(/\{(\w+)\}/g, (_, name: string) => encodeURIComponent(variables[name] ?? ""));
  const init: RequestInit = { method: method.toUpperCase() };
  const headers: Record<string, string> = {};
  if (options.body !== undefined) {
    headers["Content-Type"] = "application/json";
    init.body = JSON.stringify(options.body);
  }
  const answer = await send(url + queryString((options.query ?? {}) as QueryValues), init, headers, options.signal);
  return (answer.status === 204 ? undefined : await answer.json()) as Answer<Has<P, M>>;
}

export type QueryValues = Record<string, string | number | boolean | undefined | null>;

export function queryString(values: QueryValues): string {
  const params = new URLSearchParams();
  for (const [name, value] of Object.entries(values)) {
    if (value !== undefined && value !== null && value !== "") params.set(name, String(value));
  }
  const text = params.toString();
  return text === "" ? "" : "?" + text;
}

/** send makes a request and returns its answer, when that is no problem. It asks for a second factor where one helps. */
export async function send(url: string, init: RequestInit, headers: Record<string, string> = {}, signal?: AbortSignal): Promise<Response> {
  const change = init.method !== undefined && init.method !== "GET";
  // One key for the deed, also when it is sent again after a factor was given: it is done once.
  if (change) headers["Idempotency-Key"] = crypto.randomUUID();
  for (let attempt = 0; ; attempt++) {
    if (change) headers["X-CSRF-Token"] = session.csrf;
    let answer: Response;
    try {
      answer = await fetch(url, { ...init, headers, signal: signal ?? null, credentials: "same-origin", redirect: "error", cache: "no-store" });
    } catch (error) {
      if (signal?.aborted) throw error;
      throw new OfflineError(error);
    }
    if (answer.ok) return answer;
    const problem = await readProblem(answer);
    if (answer.status === 401 && !needsStepUp(problem)) session.ended(problem);
    if (attempt < 2 && needsStepUp(problem) && (await session.stepUp(problem))) continue;
    const after = Number(answer.headers.get("Retry-After"));
    throw new ProblemError(problem, after > 0 ? after : undefined);
  }
}

/** readProblem makes a problem of any answer: of ours, of the proxy's, of the rack's, or of something in between. */
export async function readProblem(answer: Response): Promise<Problem> {
  const requestID = answer.headers.get("Gateway-Request-Id") ?? "";
  let body: unknown;
  try {
    body = await answer.json();
  } catch {
    body = undefined;
  }
  const fields = (typeof body === "object" && body !== null ? body : {}) as Record<string, unknown>;
  const text = (name: string): string | undefined => (typeof fields[name] === "string" && fields[name] !== "" ? fields[name] : undefined);
  return {
    status: answer.status,
    code: text("code") ?? `http-${answer.status}`,
    detail: text("detail") ?? sentence(text("error")) ?? `The answer was ${answer.status}, and nothing says why.`,
    request_id: text("request_id") ?? requestID,
    field: text("field"),
    step_up: stepUpOf(fields["step_up"]),
  };
}

function stepUpOf(value: unknown): Problem["step_up"] {
  const v = value as { id?: unknown; page?: unknown } | null | undefined;
  return typeof v?.id === "string" && typeof v.page === "string" ? { id: v.id, page: v.page } : undefined;
}

function sentence(text: string | undefined): string | undefined {
  if (text === undefined) return undefined;
  const first = text.charAt(0).toUpperCase() + text.slice(1);
  return /[.!?)]$/.test(first) ? first : first + ".";
}

/** isForbidden tells a refusal for want of rights from other problems. */
export function isForbidden(error: unknown): error is ProblemError {
  return error instanceof ProblemError && error.problem.status === 403;
}

export function isNotFound(error: unknown): error is ProblemError {
  return error instanceof ProblemError && error.problem.status === 404;
}

/** worthRetrying is for what may go better by itself: nobody answered, or the gateway said that it is busy. */
export function worthRetrying(error: unknown): boolean {
  return error instanceof OfflineError || (error instanceof ProblemError && (error.problem.status >= 502 || error.problem.status === 429));
}

/** explain says what went wrong, for a toast or a field. */
export function explain(error: unknown): string {
  if (error instanceof ProblemError || error instanceof OfflineError) return error.message;
  return "Something went wrong in this page. Reload it, and tell an administrator if it goes on.";
}
