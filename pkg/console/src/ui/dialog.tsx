// Dialogs, on Radix.
//
// Radix's own scrim puts a style sheet into the page to stop it from scrolling, which the page's policy forbids, and
// rightly. So the scrim is ours.
import * as RadixDialog from "@radix-ui/react-dialog";
import { X } from "lucide-react";
import type { ReactNode } from "react";
import { IconButton } from "./controls";
import { cx } from "./cx";

export interface DialogProps {
  open: boolean;
  onClose: () => void;
  title: string;
  description?: ReactNode;
  children: ReactNode;
  wide?: boolean;
  /** Keeps a click beside the dialog from closing it: for what is shown once. */
  sticky?: boolean;
}

export function RealDialog({ open, onClose, title, description, children, wide = false, sticky = false }: DialogProps) {
  return (
    <RadixDialog.Root open={open} onOpenChange={(o) => !o && onClose()}>
      <RadixDialog.Portal>
        <div className="fixed inset-0 z-40 grid animate-fade overflow-y-auto overscroll-contain bg-scrim p-3 pt-[10vh] sm:p-6 sm:pt-[12vh]">
          <RadixDialog.Content
            {...(description === undefined ? { "aria-describedby": undefined } : {})}
            onInteractOutside={(e) => {
              // A toast is beside the dialog and not outside of it.
              if (sticky || (e.target instanceof Element && e.target.closest("[data-toasts]"))) e.preventDefault();
            }}
            className={cx("mx-auto h-fit w-full animate-rise rounded-lg border border-line bg-raised p-5 shadow-float sm:p-6", wide ? "max-w-2xl" : "max-w-md")}
          >
            <div className="mb-4 flex items-start justify-between gap-4">
              <RadixDialog.Title className="text-lead font-semibold text-balance">{title}</RadixDialog.Title>
              <RadixDialog.Close asChild>
                <IconButton label="Close" className="-mt-1 -mr-1">
                  <X aria-hidden />
                </IconButton>
              </RadixDialog.Close>
            </div>
            {description !== undefined && <RadixDialog.Description asChild><div className="mb-4 text-row text-ink-2">{description}</div></RadixDialog.Description>}
            {children}
          </RadixDialog.Content>
        </div>
      </RadixDialog.Portal>
    </RadixDialog.Root>
  );
}

