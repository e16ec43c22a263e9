// What lies over the page: dialogs, menus, toasts and tips.
import { CircleCheck, CircleX, X } from "lucide-react";
import { createContext, lazy, Suspense, useCallback, useContext, useEffect, useId, useLayoutEffect, useMemo, useRef, useState, useSyncExternalStore, type FormEvent, type ReactNode } from "react";
import { explain, ProblemError } from "@/api/client";
import { Button, Field, IconButton, Input, type Tone } from "./controls";
import type { DialogProps } from "./dialog";
import type { MenuProps, RealMenu } from "./menu";

export type { DialogProps } from "./dialog";

// Radix is fetched when it is first needed, and not before the first page shows.
const RealDialog = lazy(() => patient(() => import("./dialog")).then((m) => ({ default: m.RealDialog })));

// A menu comes once a pointer or the focus is on its button: most visits open none.
let realMenu: typeof RealMenu | undefined;
let fetching = false;
const waiting = new Set<() => void>();

function fetchMenu(): void {
  if (fetching) return;
  fetching = true;
  void patient(() => import("./menu")).then((m) => {
    realMenu = m.RealMenu;
    for (const fn of waiting) fn();
  });
}

function awaitMenu(fn: () => void): () => void {
  waiting.add(fn);
  return () => waiting.delete(fn);
}

// patient fetches a part again when it could not be fetched: the page goes on without it meanwhile.
function patient<T>(load: () => Promise<T>, tries = 10): Promise<T> {
  return load().catch((error: unknown) => {
    if (tries <= 1) throw error;
    return new Promise<T>((done) => setTimeout(() => done(patient(load, tries - 1)), 2000));
  });
}

/** A dialog: it holds the focus until it is closed, and gives it back. */
export function Dialog(props: DialogProps) {
  if (!props.open) return null;
  return (
    <Suspense fallback={null}>
      <RealDialog {...props} />
    </Suspense>
  );
}

export function Actions({ children }: { children: ReactNode }) {
  return <div className="mt-6 flex flex-wrap justify-end gap-2">{children}</div>;
}

export function FormError({ error }: { error: unknown }) {
  if (error === null || error === undefined) return null;
  return (
    <p role="alert" className="mt-4 rounded-md bg-bad-soft px-3 py-2 text-row text-bad">
      {explain(error)}
      {error instanceof ProblemError && error.problem.request_id !== "" && <span className="mt-1 block font-mono text-note opacity-80">request {error.problem.request_id}</span>}
    </p>
  );
}

export interface ConfirmProps {
  open: boolean;
  onClose: () => void;
  title: string;
  /** What will happen, in sentences. */
  children: ReactNode;
  /** The word on the button: what it does. */
  verb: string;
  tone?: Tone;
  /** What has to be typed, where it cannot be undone. */
  type?: string;
  /** Asks for a reason, which is recorded. */
  reason?: string;
  act: (reason: string) => Promise<unknown>;
}

/** Confirm says what will happen before it does, and stays open when it fails. */
export function Confirm({ open, onClose, title, children, verb, tone = "danger", type, reason, act }: ConfirmProps) {
  const [typed, setTyped] = useState("");
  const [why, setWhy] = useState("");
  const [busy, setBusy] = useState(false);
  const [error, setError] = useState<unknown>(null);
  useEffect(() => {
    if (open) return;
    setTyped("");
    setWhy("");
    setError(null);
  }, [open]);
  const ready = (type === undefined || typed === type) && (reason === undefined || why.trim() !== "");
  const submit = (e: FormEvent) => {
    e.preventDefault();
    if (!ready || busy) return;
    setBusy(true);
    setError(null);
    act(why.trim())
      .then(onClose, setError)
      .finally(() => setBusy(false));
  };
  return (
    <Dialog open={open} onClose={onClose} title={title} description={<div className="grid gap-2">{children}</div>}>
      <form onSubmit={submit} className="grid gap-4">
        {reason !== undefined && (
          <Field label={reason} hint="It is recorded, and shown to whoever is concerned.">
            {(ids) => <Input {...ids} value={why} maxLength={500} onChange={(e) => setWhy(e.target.value)} autoFocus />}
          </Field>
        )}
        {type !== undefined && (
          <Field label={`Type ${type} to go on`}>{(ids) => <Input {...ids} className="font-mono" value={typed} onChange={(e) => setTyped(e.target.value)} autoFocus={reason === undefined} />}</Field>
        )}
        <FormError error={error} />
        <Actions>
          <Button onClick={onClose}>Cancel</Button>
          <Button type="submit" tone={tone} busy={busy} disabled={!ready}>
            {verb}
          </Button>
        </Actions>
      </form>
    </Dialog>
  );
}

// Menus.

export type { MenuItem, MenuProps } from "./menu";

/** A menu. Until it could be fetched its button stands there alone; pressed meanwhile, it opens once it is there. */
export function Menu(props: MenuProps) {
  const Real = useSyncExternalStore(awaitMenu, () => realMenu);
  const [wanted, setWanted] = useState(false);
  const box = useRef<HTMLSpanElement>(null);
  const focused = useRef(false);
  // The button that comes is another one: the focus goes over to it.
  useLayoutEffect(() => {
    if (Real && focused.current && !wanted) box.current?.querySelector<HTMLElement>("button")?.focus();
  }, [Real, wanted]);
  if (Real) return <span ref={box} className="contents"><Real {...props} initiallyOpen={wanted} /></span>;
  return (
    <span
      className="contents"
      onPointerOver={fetchMenu}
      onFocus={() => {
        focused.current = true;
        fetchMenu();
      }}
      onBlur={() => (focused.current = false)}
      onClickCapture={() => {
        setWanted(true);
        fetchMenu();
      }}
    >
      {props.trigger}
    </span>
  );
}

// Toasts.

interface Toast {
  id: number;
  text: string;
  bad: boolean;
}

type Say = (text: string, bad?: boolean) => void;

const ToastContext = createContext<Say>(() => undefined);

/** useToast says in passing what was done, or what went wrong where no page or dialog is left to show it. */
export function useToast(): Say {
  return useContext(ToastContext);
}

export function Toasts({ children }: { children: ReactNode }) {
  const [toasts, setToasts] = useState<Toast[]>([]);
  const next = useRef(0);
  const drop = useCallback((id: number) => setToasts((all) => all.filter((t) => t.id !== id)), []);
  const say = useCallback<Say>(
    (text, bad = false) => {
      const id = next.current++;
      setToasts((all) => [...all.slice(-3), { id, text, bad }]);
      window.setTimeout(() => drop(id), bad ? 12_000 : 5000);
    },
    [drop],
  );
  return (
    <ToastContext.Provider value={say}>
      {children}
      <div data-toasts aria-live="polite" aria-label="Notices" role="region" className="pointer-events-none fixed inset-x-3 bottom-3 z-60 grid justify-items-center gap-2 sm:right-5 sm:bottom-5 sm:left-auto sm:justify-items-end">
        {toasts.map((t) => (
          <div key={t.id} className="pointer-events-auto flex max-w-sm animate-rise items-start gap-2.5 rounded-md border border-line bg-raised py-2.5 pr-2 pl-3.5 text-row shadow-float">
            {t.bad ? <CircleX className="mt-0.5 size-4 shrink-0 text-bad" aria-hidden /> : <CircleCheck className="mt-0.5 size-4 shrink-0 text-ok" aria-hidden />}
            <span className="min-w-0 flex-1">{t.text}</span>
            <IconButton label="Dismiss" className="-my-1" onClick={() => drop(t.id)}>
              <X aria-hidden />
            </IconButton>
          </div>
        ))}
      </div>
    </ToastContext.Provider>
  );
}

// Tips.

/** Tips shows what data-tip of an element says, on hover and on focus. One layer for the whole page: a list of ten thousand
    rows has no more of them than a button has. */
export function Tips() {
  const [tip, setTip] = useState<{ text: string; over: DOMRect } | null>(null);
  const ref = useRef<HTMLDivElement>(null);
  const id = useId();
  useEffect(() => {
    let target: Element | null = null;
    let timer = 0;
    const show = (element: Element, delay: number) => {
      if (element === target) return;
      hide();
      target = element;
      timer = window.setTimeout(() => {
        const text = element.getAttribute("data-tip");
        if (!text || !element.isConnected) return;
        // A button's tip says what its name says already; a time's says more.
        if (element.getAttribute("aria-label") !== text) element.setAttribute("aria-describedby", id);
        setTip({ text, over: element.getBoundingClientRect() });
      }, delay);
    };
    const hide = () => {
      window.clearTimeout(timer);
      if (target?.getAttribute("aria-describedby") === id) target.removeAttribute("aria-describedby");
      target = null;
      setTip(null);
    };
    const find = (e: Event) => (e.target instanceof Element ? e.target.closest("[data-tip]") : null);
    const over = (e: PointerEvent) => {
      const element = find(e);
      if (element && e.pointerType === "mouse") show(element, 350);
      else if (target && !target.contains(document.activeElement)) hide();
    };
    const focus = (e: FocusEvent) => {
      const element = find(e);
      if (element?.matches(":focus-visible")) show(element, 0);
    };
    const key = (e: KeyboardEvent) => {
      if (e.key === "Escape") hide();
    };
    document.addEventListener("pointerover", over);
    document.addEventListener("focusin", focus);
    document.addEventListener("focusout", hide);
    document.addEventListener("pointerdown", hide);
    document.addEventListener("keydown", key);
    window.addEventListener("scroll", hide, { passive: true, capture: true });
    return () => {
      hide();
      document.removeEventListener("pointerover", over);
      document.removeEventListener("focusin", focus);
      document.removeEventListener("focusout", hide);
      document.removeEventListener("pointerdown", hide);
      document.removeEventListener("keydown", key);
      window.removeEventListener("scroll", hide, { capture: true });
    };
  }, [id]);
  useLayoutEffect(() => {
    const box = ref.current;
    if (!box || !tip) return;
    const { width, height } = box.getBoundingClientRect();
    const left = Math.max(6, Math.min(tip.over.left + tip.over.width / 2 - width / 2, document.documentElement.clientWidth - width - 6));
    const above = tip.over.top - height - 6;
    box.style.left = `${left}px`;
    box.style.top = `${above < 4 ? tip.over.bottom + 6 : above}px`;
  }, [tip]);
  if (!tip) return null;
  return (
    <div ref={ref} id={id} role="tooltip" className="num pointer-events-none fixed z-70 max-w-72 animate-fade rounded-sm bg-ink px-2 py-1 text-note text-on-ink">
      {tip.text}
    </div>
  );
}

/** useConfirm keeps one Confirm at the end of a page, for whatever the page asks. */
export function useConfirm(): [ReactNode, (props: Omit<ConfirmProps, "open" | "onClose">) => void] {
  const [props, setProps] = useState<Omit<ConfirmProps, "open" | "onClose"> | null>(null);
  const [open, setOpen] = useState(false);
  const ask = useCallback((p: Omit<ConfirmProps, "open" | "onClose">) => {
    setProps(p);
    setOpen(true);
  }, []);
  const close = useCallback(() => setOpen(false), []);
  const element = useMemo(() => props && <Confirm {...props} open={open} onClose={close} />, [props, open, close]);
  return [element, ask];
}
