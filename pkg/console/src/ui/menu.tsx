// Menus, on Radix. They are not modal: what Radix does to hold the page still is against the page's policy.
import * as RadixMenu from "@radix-ui/react-dropdown-menu";
import { CircleCheck } from "lucide-react";
import type { ReactNode } from "react";
import { cx } from "./cx";

export interface MenuItem {
  label: string;
  icon?: ReactNode;
  onSelect: () => void;
  danger?: boolean;
  checked?: boolean;
  hint?: string;
  /** Why it cannot be chosen. */
  disabled?: string | undefined;
}

export interface MenuProps {
  trigger: ReactNode;
  items: (MenuItem | "line" | false | undefined)[];
  align?: "start" | "end";
  header?: ReactNode;
  /** It was asked for before it was there. */
  initiallyOpen?: boolean;
}

export function RealMenu({ trigger, items, align = "end", header, initiallyOpen = false }: MenuProps) {
  return (
    <RadixMenu.Root modal={false} defaultOpen={initiallyOpen}>
      <RadixMenu.Trigger asChild>{trigger}</RadixMenu.Trigger>
      <RadixMenu.Portal>
        <RadixMenu.Content align={align} sideOffset={6} collisionPadding={8} className="z-50 max-h-[70vh] min-w-48 max-w-80 animate-rise overflow-y-auto rounded-md border border-line bg-raised p-1 text-row shadow-float">
          {header !== undefined && <div className="border-b border-line px-2.5 pt-1.5 pb-2 mb-1">{header}</div>}
          {items.map((item, i) =>
            !item ? null : item === "line" ? (
              <RadixMenu.Separator key={i} className="my-1 h-px bg-line" />
            ) : (
              <RadixMenu.Item
                key={item.label}
                disabled={item.disabled !== undefined}
                onSelect={item.onSelect}
                className={cx("flex items-center gap-2.5 rounded-sm px-2.5 py-1.5 outline-none select-none data-highlighted:bg-hover data-disabled:text-ink-3 [&_svg]:size-4 [&_svg]:shrink-0", item.danger ? "text-bad" : "text-ink")}
              >
                {item.icon}
                <span className="min-w-0 flex-1">
                  {item.label}
                  {item.disabled !== undefined && <span className="block text-note text-ink-3">{item.disabled}</span>}
                </span>
                {item.checked === true && <CircleCheck aria-label="chosen" />}
                {item.hint !== undefined && <span className="font-mono text-label text-ink-3">{item.hint}</span>}
              </RadixMenu.Item>
            ),
          )}
        </RadixMenu.Content>
      </RadixMenu.Portal>
    </RadixMenu.Root>
  );
}

