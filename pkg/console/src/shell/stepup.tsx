// Asking for a second factor in place: a change that needs one waits here, and goes on when it was given.

/** StepUp is where the question is shown. */
export function StepUp() {
  return null;
}
