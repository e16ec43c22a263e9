// Which rows of a long list are worth having in the page: those that can be seen, and a few around them. All rows of a
// list have one height, so that this is arithmetic.

export interface Span {
  /** The first row, and the row after the last. */
  from: number;
  to: number;
}

/** spare rows above and below keep a fast scroll from showing blanks; with a screen's own they stay under a hundred. */
export const spare = 12;
export const most = 96;

/** visible computes the rows to show of count, each height high, when the list's top is that far above the view's top. */
export function visible(count: number, height: number, scrolled: number, view: number): Span {
  const first = Math.floor(Math.max(scrolled, 0) / height);
  const shown = Math.ceil(Math.max(view, 0) / height) + 1;
  const around = Math.max(0, Math.min(spare, Math.floor((most - shown) / 2)));
  // In steps of four rows, so that not every pixel of a scroll makes a new page.
  const from = Math.max(0, Math.min(Math.floor((first - around) / 4) * 4, count));
  const to = Math.min(count, Math.min(from + most, Math.ceil((first + shown + around) / 4) * 4));
  return { from, to: Math.max(from, to) };
}
