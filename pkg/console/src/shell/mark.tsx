/** The mark: lines of a record, and a gate that one of them passes. */
export function Mark({ className }: { className?: string }) {
  return (
    <svg viewBox="0 0 32 32" className={className} aria-hidden>
      <rect width="32" height="32" rx="7" className="fill-ink" />
      <path d="M8 9h16M8 16h10M8 23h16" className="stroke-on-ink" strokeWidth="2.6" strokeLinecap="round" />
      <circle cx="23.4" cy="16" r="2.3" className="fill-[oklch(0.74_0.14_260)] dark:fill-[oklch(0.5_0.18_260)]" />
    </svg>
  );
}
