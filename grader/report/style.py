"""The page's looks: readable on a phone, on paper, in light and dark; nothing by colour alone."""

CSS = """
:root { color-scheme: light dark; --ink: #1b1b1b; --paper: #fff; --line: #c9c9c9; --soft: #f2f2f2;
  --pass: #cfe4f3; --wrong: #f6cfae; --not: #ececec; --stop: #ead0e2; --open: #fdf3b8; }
@media (prefers-color-scheme: dark) { :root { --ink: #eaeaea; --paper: #161616; --line: #4a4a4a;
  --soft: #242424; --pass: #12415f; --wrong: #7a3a0a; --not: #2f2f2f; --stop: #5c3350;
  --open: #5a5010; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--paper); color: var(--ink);
  font: 16px/1.45 system-ui, sans-serif; }
main { max-width: 76rem; margin: 0 auto; padding: 1rem; }
h1 { margin: 0 0 .25rem; overflow-wrap: anywhere; }
h2 { margin: 2rem 0 .5rem; }
p { max-width: 46rem; }
code { font-size: .9em; white-space: nowrap; }
.scroll { overflow-x: auto; margin: 0 0 1rem; }
.tall { width: fit-content; max-width: 100%; max-height: 80vh; overflow-y: auto;
  border: 1px solid var(--line); }
.scroll:focus-visible, summary:focus-visible { outline: 3px solid #0072b2; outline-offset: 2px; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
caption { text-align: left; font-weight: 600; padding: .3rem 0; }
th, td { border-bottom: 1px solid var(--line); padding: .25rem .7rem .25rem 0; text-align: left;
  vertical-align: top; }
thead th { white-space: nowrap; }
tbody th { font-weight: 400; overflow-wrap: anywhere; min-width: 11rem; max-width: 24rem; }
.says td { min-width: 12rem; } .says td.short { min-width: 0; white-space: nowrap; }
.prose td { overflow-wrap: anywhere; min-width: 8rem; }
.bar { display: inline-block; min-width: 7rem; padding: 0 .3rem; background: linear-gradient(
  to right, var(--pass) var(--share), var(--soft) var(--share)); }
.legend { list-style: none; padding: 0; display: flex; flex-wrap: wrap; gap: .3rem 1.2rem; }
.key { display: inline-block; width: 1.7em; text-align: center; border: 1px solid var(--line); }
details { margin: 0 0 1rem; }
summary { font-weight: 600; cursor: pointer; padding: .3rem 0; }
.map { border-collapse: separate; border-spacing: 0; }
.map caption { padding-left: .5rem; }
.map td, .map th { border-right: 1px solid var(--line); padding: .1rem .45rem; }
.map td { text-align: center; }
.map thead { position: sticky; top: 0; z-index: 2; }
.map thead th, .map thead td { background: var(--paper); vertical-align: bottom; }
.map thead th[scope=col] span { writing-mode: vertical-rl; transform: rotate(180deg); }
.map th:first-child { position: sticky; left: 0; background: var(--paper); z-index: 1;
  width: 11rem; min-width: 6rem; max-width: 11rem; overflow: hidden; text-overflow: ellipsis;
  white-space: nowrap; }
.map .rates td, .map .rates th { font-size: .8em; }
.p { background: var(--pass); } .w { background: var(--wrong); } .n { background: var(--not); }
.t { background: var(--stop); } .o { background: var(--open); }
@media (max-width: 40rem) { body { font-size: 15px; } tbody th { min-width: 7rem; }
  code { white-space: normal; overflow-wrap: normal; } .says td { min-width: 8rem; }
  .map th:first-child { width: 7rem; max-width: 7rem; white-space: normal;
  overflow-wrap: anywhere; } }
@media print { .tall { max-height: none; } }
"""
