// The table of contents: every page that is in the navigation, who sees it, and the keys that lead to it.
import { Activity, AppWindow, BookOpenCheck, Boxes, HeartPulse, KeyRound, LayoutGrid, Plug, ScrollText, Server, Settings2, ShieldCheck, SquareTerminal, UserRound, UsersRound, type LucideIcon } from "lucide-react";

export interface Place {
  label: string;
  to: string;
  icon: LucideIcon;
  /** Pressed after g. */
  key: string;
  /** The permission without which the page has nothing to show. */
  needs?: string;
  group: "" | "Rack" | "Access" | "Gateway" | "You";
  words?: string;
}

export const places: readonly Place[] = [
  { label: "Overview", to: "/", icon: LayoutGrid, key: "o", group: "" },
  { label: "Audit", to: "/audit", icon: BookOpenCheck, key: "a", needs: "gateway:audit:read", group: "", words: "record log events search tail" },
  { label: "Apps", to: "/apps", icon: Boxes, key: "p", needs: "convox:app:list", group: "Rack", words: "services processes builds releases environment" },
  { label: "Logs", to: "/logs", icon: ScrollText, key: "l", needs: "convox:log:read", group: "Rack", words: "follow tail" },
  { label: "Instances", to: "/instances", icon: Server, key: "i", needs: "convox:instance:list", group: "Rack", words: "machines nodes" },
  { label: "People", to: "/users", icon: UsersRound, key: "u", needs: "gateway:user:read", group: "Access", words: "users members lock" },
  { label: "Roles", to: "/roles", icon: ShieldCheck, key: "r", needs: "gateway:role:read", group: "Access", words: "permissions rights" },
  { label: "API tokens", to: "/tokens", icon: KeyRound, key: "t", needs: "gateway:token:read", group: "Access", words: "pipelines ci secrets" },
  { label: "Settings", to: "/settings", icon: Settings2, key: "s", needs: "gateway:setting:read", group: "Gateway" },
  { label: "Integrations", to: "/integrations", icon: Plug, key: "n", needs: "gateway:integration:manage", group: "Gateway", words: "slack mail email postmark notices channels" },
  { label: "Background work", to: "/background", icon: HeartPulse, key: "b", needs: "gateway:setting:read", group: "Gateway", words: "health sequencer anchors outbox" },
  { label: "Connect CLI", to: "/connect", icon: SquareTerminal, key: "c", group: "You", words: "convox login device rack_url" },
  { label: "My account", to: "/account", icon: UserRound, key: "m", group: "You", words: "sessions devices factors" },
];

export const unlisted = { design: { label: "Design system", to: "/design", icon: AppWindow }, welcome: { label: "First steps", to: "/welcome", icon: Activity } } as const;
