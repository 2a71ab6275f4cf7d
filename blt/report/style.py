"""The style of the report: one sheet for screens wide and narrow, light and dark, and for paper."""

STYLE = """\
:root {
  color-scheme: light dark;
  --paper: #ffffff; --ink: #1b1f24; --ink-soft: #545d68; --line: #d9dee4; --panel: #f6f8fa;
  --series-1: #1f5fbf; --series-2: #c2410c; --series-3: #4d7c0f; --series-4: #7e22ce;
  --heat: 234, 120, 24; --cut: #1f5fbf;
}
@media (prefers-color-scheme: dark) {
  :root {
    --paper: #14171b; --ink: #e6e9ed; --ink-soft: #a6b0bb; --line: #363d46; --panel: #1c2026;
    --series-1: #7cb0ff; --series-2: #ff9d66; --series-3: #a3d65c; --series-4: #cf9bff;
    --heat: 214, 92, 10; --cut: #7cb0ff;
  }
}
* { box-sizing: border-box; }
body {
  margin: 0 auto; padding: 1.2rem; max-width: 62rem; background: var(--paper); color: var(--ink);
  font: 16px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif;
}
h1 { font-size: 1.6rem; line-height: 1.2; margin: 0.4rem 0; }
h2 {
  font-size: 1.2rem; margin: 2.2rem 0 0.6rem; padding-top: 0.6rem;
  border-top: 1px solid var(--line);
}
h3 { font-size: 1rem; margin: 1.2rem 0 0.3rem; overflow-wrap: anywhere; }
p { margin: 0.5rem 0; max-width: 46rem; }
.note, figcaption { color: var(--ink-soft); font-size: 0.88rem; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-size: 0.93rem; margin: 0.5rem 0; }
th, td {
  text-align: left; vertical-align: top; padding: 0.25rem 1rem 0.25rem 0;
  border-bottom: 1px solid var(--line);
}
thead th { color: var(--ink-soft); font-weight: 600; }
td.number, th.number { text-align: right; font-variant-numeric: tabular-nums; }
td.number { white-space: nowrap; }
td.long { overflow-wrap: anywhere; min-width: 9rem; }
.figures {
  display: grid; grid-template-columns: repeat(auto-fit, minmax(9.5rem, 1fr)); gap: 0.7rem;
  padding: 0; margin: 1rem 0; list-style: none;
}
.figures li {
  background: var(--panel); border: 1px solid var(--line); border-radius: 8px;
  padding: 0.6rem 0.8rem;
}
.figures b {
  display: block; font-size: 1.45rem; line-height: 1.25; font-variant-numeric: tabular-nums;
}
.figures span { color: var(--ink-soft); font-size: 0.85rem; }
.charts {
  display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 22rem), 1fr));
  gap: 1.2rem;
}
figure { margin: 0; min-width: 0; }
figure svg { display: block; width: 100%; height: auto; max-width: 36rem; font-family: inherit; }
figcaption { margin-top: 0.3rem; }
code, .document {
  font-family: ui-monospace, SFMono-Regular, Menlo, Consolas, "DejaVu Sans Mono", monospace;
}
code { font-size: 0.88em; overflow-wrap: anywhere; }
.document {
  direction: ltr; text-align: left; white-space: pre-wrap; overflow-wrap: anywhere;
  background: var(--panel); border: 1px solid var(--line); border-radius: 8px;
  padding: 0.6rem 0.8rem; font-size: 0.84rem; line-height: 1.75; margin: 0.4rem 0 1rem;
}
.document i {
  font-style: normal; unicode-bidi: isolate; border-left: 2px solid var(--cut); padding: 0.12em 0;
}
.document u { text-decoration: none; padding: 0.12em 0; }
.document i.alternate { background: rgba(var(--heat), 0.22); }
.document s { text-decoration: none; color: var(--ink-soft); }
.heat-1 { background: rgba(var(--heat), 0.1); }
.heat-2 { background: rgba(var(--heat), 0.22); }
.heat-3 { background: rgba(var(--heat), 0.36); }
.heat-4 { background: rgba(var(--heat), 0.52); }
.heat-5 { background: rgba(var(--heat), 0.7); }
.heat-6 { background: rgba(var(--heat), 0.9); }
.legend { display: flex; flex-wrap: wrap; gap: 0.3rem; font-size: 0.85rem; align-items: center; }
.legend span { border: 1px solid var(--line); padding: 0.05rem 0.5rem; border-radius: 4px; }
a { color: var(--series-1); }
@media (max-width: 32rem) {
  body { padding: 0.8rem; }
  th, td { padding-right: 0.55rem; font-size: 0.87rem; }
}
@media print {
  :root {
    color-scheme: light;
    --paper: #ffffff; --ink: #000000; --ink-soft: #444444; --line: #bbbbbb; --panel: #ffffff;
    --series-1: #1f5fbf; --series-2: #c2410c; --series-3: #4d7c0f; --series-4: #7e22ce;
    --heat: 234, 120, 24; --cut: #1f5fbf;
  }
  body { max-width: none; padding: 0; font-size: 11pt; }
  * { print-color-adjust: exact; -webkit-print-color-adjust: exact; }
  figure, li, tr { break-inside: avoid; }
  h2, h3 { break-after: avoid; }
}
"""
