import { useInfiniteQuery } from "@tanstack/react-query";
import { getRouteApi } from "@tanstack/react-router";
import { KeyRound, Plus } from "lucide-react";
import { tokens } from "@/api/queries";
import { useTyped } from "@/lib/list";
import { Page, Toolbar } from "@/shell/page";
import { useWho } from "@/shell/who";
import { Button, ButtonLink, Checkbox, Chips, SearchField } from "@/ui/controls";
import { Async, Empty, RefreshButton } from "@/ui/display";
import { usePages } from "@/ui/table";
import { TokenList } from "./tokenlist";

const route = getRouteApi("/tokens");

export function Tokens() {
  const who = useWho();
  const search = route.useSearch();
  const navigate = route.useNavigate();
  const [typed, setTyped] = useTyped(search.q, (q) => void navigate({ search: (s) => ({ ...s, q }), replace: true }));
  const query = useInfiniteQuery(tokens({ search: search.q, kind: search.kind, ended: search.ended }));
  const { rows, more } = usePages(query);
  const create = who.can("gateway:token:manage") && (
    <ButtonLink to="/tokens/new" tone="primary">
      <Plus aria-hidden />
      Create a token
    </ButtonLink>
  );
  return (
    <Page
      title="API tokens"
      lead="What pipelines sign in with. Each has rights of its own, never more than whoever made it, and ends by itself."
      actions={
        <>
          <RefreshButton keys={[["tokens"]]} />
          {create}
        </>
      }
    >
      <Toolbar>
        <SearchField label="Search names and prefixes" value={typed} onChange={setTyped} className="w-full sm:w-72" />
        <Chips
          label="Kind"
          value={search.kind ?? "all"}
          onChange={(kind) => void navigate({ search: (s) => ({ ...s, kind: kind === "all" ? undefined : kind }) })}
          options={[
            { value: "all", label: "All" },
            { value: "api", label: "API, of pipelines" },
            { value: "cli", label: "CLI, of people" },
          ]}
        />
        <Checkbox label="Those that have ended too" checked={search.ended === true} onChange={(e) => void navigate({ search: (s) => ({ ...s, ended: e.target.checked ? true : undefined }) })} />
      </Toolbar>
      <Async query={query}>
        {() => (
          <TokenList
            label="Tokens"
            rows={rows}
            more={more}
            empty={
              search.q !== undefined || search.kind !== undefined ? (
                <Empty title="No token fits" action={<Button onClick={() => { setTyped(""); void navigate({ search: {} }); }}>Show all</Button>}>
                  None has this in its name or in what is shown of it.
                </Empty>
              ) : (
                <Empty icon={<KeyRound aria-hidden />} title="There are no tokens yet" action={create}>
                  A pipeline needs one to deploy through the gateway. Give each its own, with the rights that it needs and no more.
                </Empty>
              )
            }
          />
        )}
      </Async>
    </Page>
  );
}
