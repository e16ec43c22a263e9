// How the console is built: to static files under dist/app, which cmd/admin embeds. Every file but the page itself has a
// hash of its content in its name.
import { readFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import tailwind from "@tailwindcss/vite";
import react from "@vitejs/plugin-react";
import type { Plugin } from "vite";
import { defineConfig } from "vitest/config";

// first puts a small script into the page that runs before anything is painted: the chosen theme must not flash. The
// page's policy forbids it to be inline.
function first(file: string): Plugin {
  let name = "";
  return {
    name: "first",
    apply: "build",
    buildStart() {
      name = this.emitFile({ type: "asset", name: "first.js", source: readFileSync(file, "utf8") });
    },
    transformIndexHtml: {
      order: "post",
      handler(_html, context) {
        const made = Object.values(context.bundle ?? {}).find((f) => f.type === "asset" && f.names.includes("first.js"));
        if (!made) throw new Error(`${file} (${name}) is not in the bundle`);
        return [{ tag: "script", attrs: { src: `/console/${made.fileName}` }, injectTo: "head-prepend" }];
      },
    },
  };
}

export default defineConfig({
  base: "/console/",
  plugins: [react(), tailwind(), first("src/first.js")],
  resolve: { alias: { "@": fileURLToPath(new URL("./src", import.meta.url)) } },
  build: {
    outDir: "dist/app",
    emptyOutDir: true,
    target: "es2022",
    modulePreload: { polyfill: false },
    assetsInlineLimit: 0,
    reportCompressedSize: false,
    manifest: true,
    rollupOptions: {
      output: {
        // A part of a few hundred bytes costs more to ask for than to have.
        experimentalMinChunkSize: 4096,
        // What changes rarely is apart from what changes with every release.
        manualChunks: (id) => (/node_modules\/(react|react-dom|scheduler)\//.test(id) ? "react" : undefined),
      },
    },
  },
  server: {
    // npm run dev, beside a gateway: ADMIN_URL=https://localhost:8081 npm run dev
    proxy: Object.fromEntries(["/api", "/login"].map((path) => [path, { target: process.env["ADMIN_URL"] ?? "https://localhost:8081", secure: false, ws: true }])),
  },
  test: { include: ["src/**/*.test.ts"], environment: "node" },
});
