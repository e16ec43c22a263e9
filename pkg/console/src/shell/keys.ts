// Keys that work everywhere: g and a letter goes to a page, / to the search field, Ctrl or ⌘ K opens the palette.
import { useRouter } from "@tanstack/react-router";
import { useEffect, useRef } from "react";
import { places } from "./nav";
import { useWho } from "./who";

/** typing tells whether a key is meant for a field. */
function typing(target: EventTarget | null): boolean {
  return target instanceof HTMLElement && (target.isContentEditable || /^(?:INPUT|TEXTAREA|SELECT)$/.test(target.tagName));
}

export function useShortcuts({ palette, help }: { palette: () => void; help: () => void }): void {
  const router = useRouter();
  const who = useWho();
  const actions = useRef({ palette, help });
  actions.current = { palette, help };
  useEffect(() => {
    let going = 0; // when g was pressed
    const key = (e: KeyboardEvent) => {
      if (e.defaultPrevented) return;
      if ((e.metaKey || e.ctrlKey) && !e.shiftKey && !e.altKey && e.key.toLowerCase() === "k") {
        e.preventDefault();
        actions.current.palette();
        return;
      }
      if (e.metaKey || e.ctrlKey || e.altKey || typing(e.target) || document.querySelector("[role=dialog],[role=alertdialog],[role=menu]")) return;
      if (Date.now() - going < 1200) {
        going = 0;
        const place = places.find((p) => p.key === e.key && (p.needs === undefined || who.can(p.needs)));
        if (place) {
          e.preventDefault();
          void router.navigate({ to: place.to });
          return;
        }
      }
      if (e.key === "g") going = Date.now();
      else if (e.key === "?") actions.current.help();
      else if (e.key === "/") {
        const field = document.querySelector<HTMLInputElement>("[data-search]");
        if (field) {
          e.preventDefault();
          field.focus();
          field.select();
        } else {
          e.preventDefault();
          actions.current.palette();
        }
      } else if (e.key === "j" && !(e.target instanceof HTMLElement && e.target.matches("[data-row-link]"))) {
        const first = [...document.querySelectorAll<HTMLElement>("[data-row-link]")].find((link) => link.getBoundingClientRect().bottom > 0);
        if (first) {
          e.preventDefault();
          first.focus();
        }
      }
    };
    window.addEventListener("keydown", key);
    return () => window.removeEventListener("keydown", key);
  }, [router, who]);
}
