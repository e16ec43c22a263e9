// A client of the API: fetch, with the types that api.ts has of every operation.
import type { components, paths } from "./api.js";

export type Problem = components["schemas"]["Problem"];

type Method = "get" | "post" | "put" | "delete";
type MethodOf<P extends keyof paths> = { [M in Method]: paths[P] extends Record<M, object> ? M : never }[Method];
type Has<P extends keyof paths, M extends Method> = paths[P] extends Record<M, infer O> ? O : never;
type Part<O, K extends string> = O extends { parameters: infer P } ? (P extends Partial<Record<K, infer V>> ? NonNullable<V> : never) : never;
type Body<O> = O extends { requestBody: { content: { "application/json": infer B } } } ? B : never;
type Json<R> = R extends { content: { "application/json": infer A } } ? A : undefined;
type Answer<O> = O extends { responses: infer R } ? { [S in keyof R & (200 | 201 | 204)]: Json<R[S]> }[keyof R & (200 | 201 | 204)] : never;

/** What a request carries: as the document says, and an idempotency key for writes. */
export interface Options<O> {
  path?: Part<O, "path">;
  query?: Part<O, "query">;
  body?: Body<O>;
  key?: string;
}

/** ProblemError is an answer that is a problem. */
export class ProblemError extends Error {
  readonly problem: Problem;
  constructor(problem: Problem) {
    super(`${problem.code}: ${problem.detail}`);
    this.problem = problem;
  }
}

/** Client makes requests with a token. */
export class Client {
  readonly #base: string;
  readonly #token: string;

  constructor(base: string, token: string) {
    this.#base = base;
    this.#token = token;
  }

  /** call asks for an operation. It throws a ProblemError when the answer is a problem. */
  async call<P extends keyof paths, M extends MethodOf<P>>(method: M, path: P, options: Options<Has<P, M>> = {}): Promise<Answer<Has<P, M>>> {
    const variables = (options.path ?? {}) as Record<string, string>;
    const url = new URL(this.#base + path.replace(/\{(\w+)\}/g, (_, name: string) => encodeURIComponent(variables[name] ?? "")));
    for (const [name, value] of Object.entries((options.query ?? {}) as Record<string, string | number | boolean>)) {
      url.searchParams.set(name, String(value));
    }
    const headers: Record<string, string> = { Authorization: `Bearer ${this.#token}` };
    if (options.key !== undefined) headers["Idempotency-Key"] = options.key;
    const init: RequestInit = { method: method.toUpperCase(), headers };
    if (options.body !== undefined) {
      headers["Content-Type"] = "application/json";
      init.body = JSON.stringify(options.body);
    }
    const answer = await fetch(url, init);
    if (!answer.ok) throw new ProblemError((await answer.json()) as Problem);
    return (answer.status === 204 ? undefined : await answer.json()) as Answer<Has<P, M>>;
  }
}
