// What is shown where a page cannot be: it broke, it could not be fetched, or it does not exist.
import { Link, type ErrorComponentProps } from "@tanstack/react-router";
import { Compass, TriangleAlert } from "lucide-react";
import { Button, ButtonLink } from "@/ui/controls";
import { Notice } from "@/ui/display";
import { Page } from "./page";

export function Crash({ error }: ErrorComponentProps) {
  const message = error instanceof Error ? error.message : String(error);
  // After a new release the files of the one before are gone.
  const old = /dynamically imported module|module script|Importing a module/i.test(message);
  return (
    <div className="mx-auto max-w-3xl px-4 py-16">
      <h1 className="sr-only">This page broke</h1>
      <Notice
        icon={<TriangleAlert aria-hidden />}
        title={old ? "The gateway has a new version" : "This page broke"}
        action={
          <Button tone="primary" onClick={() => location.reload()}>
            Load the page again
          </Button>
        }
      >
        {old ? "This page could not be fetched. Load it again to go on with the new one; nothing was changed." : `Nothing was changed on the gateway by it. Load the page again, and tell an administrator what you did when it goes on: ${message}`}
      </Notice>
    </div>
  );
}

export function NotFound() {
  return (
    <Page title="There is no such page" width="read">
      <Notice icon={<Compass aria-hidden />} title="Nothing is at this address" action={<ButtonLink to="/">Go to the overview</ButtonLink>}>
        It may have been moved, or mistyped. Press <kbd className="font-mono">?</kbd> for the keys that lead everywhere, or look at{" "}
        <Link to="/apps" className="link">
          the apps
        </Link>
        .
      </Notice>
    </Page>
  );
}
