// Where the console starts.
import { QueryClientProvider } from "@tanstack/react-query";
import { RouterProvider } from "@tanstack/react-router";
import { StrictMode } from "react";
import { createRoot } from "react-dom/client";
import { newQueryClient } from "./api/queries";
import { paint } from "./lib/preferences";
import { newRouter } from "./router";
import { SignedIn } from "./shell/who";
import { StepUp } from "./shell/stepup";
import "./styles/app.css";
import { Tips, Toasts } from "./ui/overlay";

paint();
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", paint);

const root = document.getElementById("root");
if (!root) throw new Error("the page has no place for the console");
const client = newQueryClient();
const router = newRouter();
createRoot(root).render(
  <StrictMode>
    <QueryClientProvider client={client}>
      <Toasts>
        <SignedIn>
          <StepUp />
          <RouterProvider router={router} />
        </SignedIn>
      </Toasts>
      <Tips />
    </QueryClientProvider>
  </StrictMode>,
);
