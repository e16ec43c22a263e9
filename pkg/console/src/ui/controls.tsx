// What one presses and fills in: buttons, links that look like them, fields.
import { Link, type LinkProps } from "@tanstack/react-router";
import { Check, ChevronDown, LoaderCircle, Search, X } from "lucide-react";
import { useId, useRef, type ComponentProps, type ReactNode } from "react";
import { cx } from "./cx";

export type Tone = "primary" | "plain" | "quiet" | "danger";

const tones: Record<Tone, string> = {
  primary: "bg-ink text-on-ink border-transparent hover:bg-ink-2 active:bg-ink",
  plain: "bg-raised text-ink border-line-strong hover:bg-sunken active:bg-hover",
  quiet: "bg-transparent text-ink-2 border-transparent hover:bg-hover hover:text-ink",
  danger: "bg-raised text-bad border-line-strong hover:bg-bad-soft hover:border-bad",
};

const shape = "inline-flex items-center justify-center gap-1.5 rounded-md border text-row font-medium whitespace-nowrap select-none transition-colors duration-100 disabled:opacity-50 aria-disabled:opacity-50 [&_svg]:size-4 [&_svg]:shrink-0";

export function buttonClass(tone: Tone = "plain", size: "sm" | "md" = "md", square = false): string {
  return cx(shape, tones[tone], size === "md" ? (square ? "size-9" : "h-9 px-3.5") : square ? "size-7" : "h-7 px-2.5");
}

export interface ButtonProps extends ComponentProps<"button"> {
  tone?: Tone;
  size?: "sm" | "md";
  busy?: boolean;
}

export function Button({ tone = "plain", size = "md", busy = false, className, children, disabled, type = "button", ...rest }: ButtonProps) {
  return (
    <button type={type} className={cx(buttonClass(tone, size), className)} disabled={disabled === true || busy} aria-busy={busy || undefined} {...rest}>
      {busy && <LoaderCircle className="animate-spin" aria-hidden />}
      {children}
    </button>
  );
}

export interface IconButtonProps extends Omit<ButtonProps, "children"> {
  label: string;
  children: ReactNode;
}

/** A button without words has them as a tip, and for those who cannot see it. */
export function IconButton({ label, tone = "quiet", size = "sm", className, children, busy = false, ...rest }: IconButtonProps) {
  return (
    <button type="button" aria-label={label} data-tip={label} className={cx(buttonClass(tone, size, true), className)} {...rest}>
      {busy ? <LoaderCircle className="animate-spin" aria-hidden /> : children}
    </button>
  );
}

export function ButtonLink({ tone = "plain", size = "md", className, ...rest }: LinkProps & { tone?: Tone; size?: "sm" | "md"; className?: string }) {
  return <Link className={cx(buttonClass(tone, size), className)} {...rest} />;
}

const input =
  "w-full rounded-md border border-control/70 bg-raised px-2.5 text-body text-ink transition-colors hover:border-control focus-visible:outline-offset-0 disabled:bg-sunken disabled:text-ink-3 aria-invalid:border-bad";

export interface FieldProps {
  label: string;
  hint?: ReactNode;
  error?: string | undefined;
  optional?: boolean;
  children: (ids: { id: string; "aria-describedby": string | undefined; "aria-invalid": true | undefined }) => ReactNode;
}

/** A field: its label above, what helps to fill it below, and what is wrong with it in place of that. */
export function Field({ label, hint, error, optional = false, children }: FieldProps) {
  const id = useId();
  const note = error ?? hint;
  return (
    <div className="grid gap-1.5">
      <label htmlFor={id} className="text-row font-medium">
        {label}
        {optional && <span className="ml-1.5 font-normal text-ink-3">optional</span>}
      </label>
      {children({ id, "aria-describedby": note === undefined ? undefined : id + "-note", "aria-invalid": error === undefined ? undefined : true })}
      {note !== undefined && (
        <p id={id + "-note"} className={cx("text-note", error === undefined ? "text-ink-3" : "text-bad")} role={error === undefined ? undefined : "alert"}>
          {note}
        </p>
      )}
    </div>
  );
}

export function Input({ className, ...rest }: ComponentProps<"input">) {
  return <input autoComplete="off" spellCheck={false} className={cx(input, "h-9", className)} {...rest} />;
}

export function TextArea({ className, ...rest }: ComponentProps<"textarea">) {
  return <textarea spellCheck={false} className={cx(input, "py-2", className)} {...rest} />;
}

export function Select({ className, children, size = "md", ...rest }: Omit<ComponentProps<"select">, "size"> & { size?: "sm" | "md" }) {
  return (
    <span className={cx("relative inline-grid", className)}>
      <select className={cx(input, "appearance-none pr-8", size === "md" ? "h-9" : "h-7 text-row")} {...rest}>
        {children}
      </select>
      <ChevronDown className="pointer-events-none absolute top-1/2 right-2.5 size-4 -translate-y-1/2 text-ink-3" aria-hidden />
    </span>
  );
}

export interface CheckboxProps extends Omit<ComponentProps<"input">, "type"> {
  label: ReactNode;
  hint?: ReactNode;
}

export function Checkbox({ label, hint, className, ...rest }: CheckboxProps) {
  const id = useId();
  return (
    <div className={cx("flex items-start gap-2.5", className)}>
      <span className="relative mt-0.5 grid size-4 shrink-0 place-items-center">
        <input
          id={id}
          type="checkbox"
          aria-describedby={hint === undefined ? undefined : id + "-hint"}
          className="peer size-4 appearance-none rounded-sm border border-control bg-raised checked:border-ink checked:bg-ink disabled:opacity-50"
          {...rest}
        />
        <Check className="pointer-events-none absolute hidden size-3 text-on-ink peer-checked:block" strokeWidth={3} aria-hidden />
      </span>
      <span className="min-w-0">
        <label htmlFor={id} className="text-row">
          {label}
        </label>
        {hint !== undefined && (
          <span id={id + "-hint"} className="block text-note text-ink-3">
            {hint}
          </span>
        )}
      </span>
    </div>
  );
}

export interface SwitchProps {
  checked: boolean;
  onChange: (checked: boolean) => void;
  label: string;
  disabled?: boolean;
  describedBy?: string;
}

export function Switch({ checked, onChange, label, disabled = false, describedBy }: SwitchProps) {
  return (
    <button
      type="button"
      role="switch"
      aria-checked={checked}
      aria-label={label}
      aria-describedby={describedBy}
      disabled={disabled}
      onClick={() => onChange(!checked)}
      className={cx("relative h-5 w-9 shrink-0 rounded-full border transition-colors duration-150 disabled:opacity-50", checked ? "border-transparent bg-ink" : "border-control bg-sunken")}
    >
      <span className={cx("absolute top-1/2 left-0.5 size-3.5 -translate-y-1/2 rounded-full transition-transform duration-150", checked ? "translate-x-4 bg-on-ink" : "bg-ink-3")} />
    </button>
  );
}

export interface SearchFieldProps {
  value: string;
  onChange: (value: string) => void;
  label: string;
  className?: string;
  mono?: boolean;
}

/** The one search field of a list: "/" leads to it, Escape empties it. */
export function SearchField({ value, onChange, label, className, mono = false }: SearchFieldProps) {
  const ref = useRef<HTMLInputElement>(null);
  return (
    <div className={cx("relative", className)} role="search" aria-label={label}>
      <Search className="pointer-events-none absolute top-1/2 left-2.5 size-4 -translate-y-1/2 text-ink-3" aria-hidden />
      <input
        ref={ref}
        data-search
        type="text"
        aria-label={label}
        placeholder={label}
        autoComplete="off"
        spellCheck={false}
        value={value}
        onChange={(e) => onChange(e.target.value)}
        onKeyDown={(e) => {
          if (e.key !== "Escape") return;
          e.preventDefault();
          if (value === "") ref.current?.blur();
          else onChange("");
        }}
        className={cx(input, "h-9 truncate pr-8 pl-8.5", mono && value !== "" && "font-mono text-row")}
      />
      {value !== "" ? (
        <button type="button" aria-label="Empty the search" className="absolute top-1/2 right-1.5 grid size-6 -translate-y-1/2 place-items-center rounded-sm text-ink-3 hover:text-ink" onClick={() => { onChange(""); ref.current?.focus(); }}>
          <X className="size-3.5" aria-hidden />
        </button>
      ) : (
        <kbd className="pointer-events-none absolute top-1/2 right-2 hidden -translate-y-1/2 rounded-sm border border-line px-1.5 font-mono text-label text-ink-3 sm:block" aria-hidden>
          /
        </kbd>
      )}
    </div>
  );
}

export interface ChipsProps<T extends string> {
  label: string;
  value: T;
  options: readonly { value: T; label: string; count?: number | undefined }[];
  onChange: (value: T) => void;
}

/** Chips choose one of a few: they filter a list. */
export function Chips<T extends string>({ label, value, options, onChange }: ChipsProps<T>) {
  return (
    <div role="group" aria-label={label} className="inline-flex max-w-full flex-wrap gap-1">
      {options.map((o) => (
        <button
          key={o.value}
          type="button"
          aria-pressed={o.value === value}
          onClick={() => onChange(o.value)}
          className={cx(
            "h-7 rounded-full border px-3 text-row whitespace-nowrap transition-colors",
            o.value === value ? "border-ink bg-ink font-medium text-on-ink" : "border-line-strong text-ink-2 hover:bg-hover hover:text-ink",
          )}
        >
          {o.label}
          {o.count !== undefined && <span className={cx("num ml-1.5", o.value === value ? "text-on-ink" : "text-ink-3")}>{o.count}</span>}
        </button>
      ))}
    </div>
  );
}
