// Holds the build to its budget: what a browser loads before the first page shows, compressed, is at most 200 KB, and
// nothing in it names another host to load from.
import { readFile, readdir } from "node:fs/promises";
import { gzipSync } from "node:zlib";

const budget = 200 * 1024;
const dist = new URL("../dist/app/", import.meta.url);
const manifest = JSON.parse(await readFile(new URL(".vite/manifest.json", dist), "utf8"));
const page = await readFile(new URL("index.html", dist), "utf8");

const names = new Set();
// chunk notes a chunk, its styles and fonts, and what it imports at once. What it imports later is not of the first load.
function chunk(key) {
  const c = manifest[key];
  if (!c || names.has(c.file)) return;
  names.add(c.file);
  for (const more of [...(c.css ?? []), ...(c.assets ?? [])]) names.add(more);
  for (const next of c.imports ?? []) chunk(next);
}
chunk("index.html");
// The first page is the overview: its own part counts too.
chunk("src/pages/overview.tsx");
for (const [, name] of page.matchAll(/(?:src|href)="\/console\/([^"]+)"/g)) names.add(name);

let total = gzipSync(page, { level: 9 }).length;
const rows = [];
for (const name of names) {
  const text = await readFile(new URL(name, dist));
  const size = /\.woff2$/.test(name) ? text.length : gzipSync(text, { level: 9 }).length;
  total += size;
  rows.push([size, name]);
}
rows.sort((a, b) => b[0] - a[0]);
for (const [size, name] of rows) console.log(`${(size / 1024).toFixed(1).padStart(8)} KB  ${name}`);
console.log(`${(total / 1024).toFixed(1).padStart(8)} KB  first load, gzipped; ${budget / 1024} KB are allowed`);

const problems = [];
if (total > budget) problems.push(`the first load is ${(total / 1024).toFixed(1)} KB`);
for (const file of await readdir(dist, { recursive: true })) {
  if (!/\.(html|css)$/.test(file)) continue;
  const text = await readFile(new URL(file, dist), "utf8");
  for (const [found] of text.matchAll(/(?:src|href)=["']?(?:https?:)?\/\/[^"' >]+|url\(\s*["']?(?:https?:)?\/\/[^)]+|@import[^;]+\/\/[^;]+/g)) {
    problems.push(`${file} loads from another host: ${found}`);
  }
  if (/<script(?![^>]*\bsrc=)[^>]*>/.test(text) || /<style/.test(text) || /\son\w+=/.test(text)) problems.push(`${file} has something inline`);
}
if (problems.length > 0) {
  console.error(problems.join("\n"));
  process.exit(1);
}
