// What every page has: a title, of which the window's is made and which is read out after a navigation, where it stands,
// what can be done, and a column for the rest.
import { Link, type LinkProps } from "@tanstack/react-router";
import { ChevronRight } from "lucide-react";
import { useEffect, type ReactNode } from "react";
import { cx } from "@/ui/cx";
import { useWho } from "./who";

export interface PageProps {
  title: string;
  /** The title as it is shown, where that is more than text. */
  heading?: ReactNode;
  above?: { label: string; to: LinkProps } | undefined;
  lead?: ReactNode;
  actions?: ReactNode;
  tabs?: ReactNode;
  children: ReactNode;
  /** Lists take the whole width; what is read takes a column. */
  width?: "list" | "read";
}

export function Page({ title, heading, above, lead, actions, tabs, children, width = "list" }: PageProps) {
  const { rack } = useWho();
  useEffect(() => {
    document.title = `${title} · ${rack}`;
  }, [title, rack]);
  return (
    <div className={cx("mx-auto w-full px-4 pt-5 pb-24 sm:px-8 sm:pt-8", width === "list" ? "max-w-[92rem]" : "max-w-4xl")}>
      <header className="mb-6">
        {above && (
          <nav aria-label="Above this page" className="mb-1.5 flex items-center gap-1 text-note text-ink-3">
            <Link {...above.to} className="rounded-sm hover:text-ink hover:underline">
              {above.label}
            </Link>
            <ChevronRight className="size-3" aria-hidden />
          </nav>
        )}
        <div className="flex flex-wrap items-start justify-between gap-x-6 gap-y-3">
          <div className="min-w-0">
            <h1 tabIndex={-1} data-title className="text-title font-semibold tracking-[-0.015em]">
              {heading ?? title}
            </h1>
            {lead !== undefined && <div className="mt-1 max-w-prose text-row text-ink-2">{lead}</div>}
          </div>
          {actions !== undefined && <div className="flex flex-wrap items-center gap-2">{actions}</div>}
        </div>
        {tabs}
      </header>
      {children}
    </div>
  );
}

export function Toolbar({ children }: { children: ReactNode }) {
  return <div className="mb-4 flex flex-wrap items-center gap-x-3 gap-y-2">{children}</div>;
}

export interface Tab {
  label: string;
  to: LinkProps;
  exact?: boolean;
}

/** Tabs are links: each has its address. */
export function Tabs({ label, tabs }: { label: string; tabs: Tab[] }) {
  return (
    <nav aria-label={label} className="-mx-4 mt-5 overflow-x-auto border-b border-line px-4 [scrollbar-width:none] sm:mx-0 sm:px-0">
      <ul className="flex gap-5">
        {tabs.map((t) => (
          <li key={t.label}>
            <Link
              {...t.to}
              activeOptions={{ exact: t.exact ?? false, includeSearch: false }}
              className="-mb-px block border-b-2 border-transparent py-2 text-row whitespace-nowrap text-ink-2 hover:text-ink data-[status=active]:border-ink data-[status=active]:font-medium data-[status=active]:text-ink"
              activeProps={{ "aria-current": "page" }}
            >
              {t.label}
            </Link>
          </li>
        ))}
      </ul>
    </nav>
  );
}
