"""What comes out of grading: ``report.json``, ``grades.csv``, a page per learner and one for the class.

The pages need nothing but themselves and can be printed. All that a learner wrote is hostile: it is escaped, and the
policy in each page's head lets no script run. Nothing of a hidden test is on them but its name.
"""

import csv
import html
import json
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from string import Template

from lama_minimal.grade import Mark, Record

PAGE = Template("""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<title>$title</title><style>
body { font: 16px/1.5 system-ui, sans-serif; color: #1b2430; max-width: 52rem; margin: 2rem auto; padding: 0 1rem }
h1 { font-size: 1.7rem; margin: 0 } h2 { font-size: 1.15rem; margin: 0 } a { color: #0b5394 }
section { border: 1px solid #cfd6de; border-radius: 8px; padding: .8rem 1rem; margin: 1rem 0; break-inside: avoid }
header { display: flex; gap: 1rem; justify-content: space-between; align-items: baseline }
table { border-collapse: collapse; width: 100%; margin: .5rem 0 }
th, td { text-align: left; padding: .3rem .6rem .3rem 0 }
td .bar { margin-top: .45rem }
th { border-bottom: 2px solid #1b2430 } td { border-bottom: 1px solid #e3e8ee; vertical-align: top }
.n { text-align: right; white-space: nowrap; font-variant-numeric: tabular-nums }
.quiet { color: #566270; font-size: .9rem }
.bar { background: #e3e8ee; border-radius: 4px; height: .6rem; min-width: 8rem; print-color-adjust: exact }
.bar i { display: block; height: 100%; background: #0072b2; border-radius: 4px; print-color-adjust: exact }
ul { list-style: none; padding: 0; margin: .5rem 0 }
li { padding-left: 1.6rem; text-indent: -1.6rem; overflow-wrap: anywhere }
.hint { background: #fff6dc; border-left: 4px solid #d98e04; padding: .4rem .8rem; overflow-wrap: anywhere;
  margin: .5rem 0; print-color-adjust: exact }
@media print { body { margin: 0; max-width: none } a { color: inherit; text-decoration: none } }
</style></head><body>
$body
</body></html>
""")


def _text(words: object) -> str:
    """Hostile text as harmless HTML; what no file can hold is replaced."""
    return html.escape(str(words).encode(errors="replace").decode())


def _number(points: float | None) -> str:
    return "–" if points is None else f"{points:.2f}".rstrip("0").rstrip(".")


def _bar(share: float) -> str:
    return f'<div class="bar"><i style="width:{100 * min(1, max(0, share)):.0f}%"></i></div>'


def write_reports(records: Sequence[Record], out: Path) -> None:
    """Write all reports to a folder.

    Args:
        records: of all submissions.
        out: is made where it does not exist; files of the same names are replaced.
    """
    learners = out / "learners"
    learners.mkdir(parents=True, exist_ok=True)
    (out / "report.json").write_text(json.dumps([asdict(record) for record in records], indent=1) + "\n")
    _write_table(records, out / "grades.csv")
    pages = _pages(records)
    for name, own in pages.items():
        (learners / f"{name}.html").write_text(_learner_page(own), encoding="utf-8")
    (out / "class.html").write_text(_class_page(records, pages), encoding="utf-8")


def _write_table(records: Iterable[Record], path: Path) -> None:
    """A row a submission; what a spreadsheet would take for a formula is quoted, and points not given are empty."""

    def cell(words: str) -> str:
        words = words.encode(errors="replace").decode()
        return f"'{words}" if words.startswith(("=", "+", "-", "@", "\t", "\r")) else words

    with path.open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(["learner", "chapter", "notebook", "status", "points", "max_points", "reason"])
        for record in records:
            words = [cell(text) for text in (record.learner, record.chapter, record.notebook)]
            points = _number(record.points) if record.chapter else ""
            row = [record.status, points, _number(record.max_points), cell(record.reason)]
            table.writerow([*words, *row])


def _pages(records: Iterable[Record]) -> dict[str, list[Record]]:
    """Name of the page → a learner's records; learners of equal names in different folders get pages of their own."""
    groups: dict[tuple[str, str], list[Record]] = {}
    for record in records:
        parts = Path(record.notebook).parts
        place = parts[: parts.index(record.learner)] if record.learner in parts[:-1] else parts
        groups.setdefault((record.learner, "/".join(place)), []).append(record)
    pages: dict[str, list[Record]] = {}
    for (learner, _), own in groups.items():
        name = plain = re.sub(r"[^\w.-]+", "_", learner).strip("._")[:80].lower() or "learner"
        number = 1
        while name in pages:
            number += 1
            name = f"{plain}-{number}"
        pages[name] = own
    return pages


# ------------------------------------------------------------------------------------------------------------ a learner


def _learner_page(records: Sequence[Record]) -> str:
    parts = [f"<h1>{_text(records[0].learner)}</h1>"]
    for record in records:
        name = record.chapter.replace("_", " ") or Path(record.notebook).name
        total = f"{_number(record.points)} of {_number(record.max_points)} points" if record.chapter else "not graded"
        parts.append(f"<header><p><b>{_text(name)}</b></p><p><b>{total}</b></p></header>")
        if record.chapter:
            parts.append(_bar(record.points / record.max_points if record.max_points else 0))
        if record.status != "graded":
            parts.append(f'<p class="hint">Not graded, and no zero: {_text(record.reason)}. Ask your teacher.</p>')
        parts += [f'<p class="quiet">{_text(note)}</p>' for note in record.notes]
        parts += [_exercise(mark) for mark in record.exercises]
    return PAGE.substitute(title=_text(records[0].learner), body="\n".join(parts))


def _exercise(mark: Mark) -> str:
    of = f"{_number(mark.points)} of {_number(mark.max_points)}" if mark.points is not None else "not graded"
    parts = [f"<section><header><h2>{_text(mark.name)}</h2><b>{of}</b></header>"]
    if mark.reason:
        parts.append(f'<p class="hint">{_text(_sentence(mark.reason))}</p>')
    if mark.tests and mark.reason != "not written yet":
        parts.append("<ul>")
        for test in mark.tests:
            sign, points = ("✓", "") if test["earned"] else ("✗", f" ({_number(test['points'])})")
            hint = f": {_text(test['hint'])}" if test["hint"] else ""
            hidden = ' <span class="quiet">hidden test</span>' if test["hidden"] else ""
            parts.append(f"<li>{sign}  {_text(test['name'])}{points}{hint}{hidden}</li>")
        parts.append("</ul>")
    parts += [f'<p class="hint">Hint: {_text(_sentence(hint))}</p>' for hint in dict.fromkeys(mark.hints)]
    return "\n".join([*parts, "</section>"])


def _sentence(words: str) -> str:
    return words[:1].upper() + words[1:] + ("" if words.endswith((".", "?", "!")) else ".")


# ------------------------------------------------------------------------------------------------------------ the class


def _class_page(records: Sequence[Record], pages: dict[str, list[Record]]) -> str:
    about = f"{len(records)} notebooks, seed {records[0].seed}. {_text(records[0].isolation)}."
    parts = ["<h1>Grades</h1>", f"<p class='quiet'>{about}</p>", "<section><h2>Exercises, hardest first</h2><table>"]
    parts.append("<tr><th>exercise</th><th class='n'>mean</th><th></th>")
    parts.append("<th class='n'>full marks</th><th class='n'>not written</th></tr>")
    for (chapter, name), marks in sorted(_by_exercise(records).items(), key=lambda item: _share(item[1])):
        full = sum(mark.points == mark.max_points for mark in marks)
        blank = sum(mark.reason == "not written yet" for mark in marks)
        parts.append(
            f"<tr><td>{_text(name)} <span class='quiet'>{_text(chapter)}</span></td>"
            f"<td class='n'>{_share(marks):.0%}</td><td>{_bar(_share(marks))}</td>"
            f"<td class='n'>{full} of {len(marks)}</td><td class='n'>{blank}</td></tr>"
        )
    parts += ["</table></section>", _mistakes(records), "<section><h2>Learners</h2><table>"]
    parts.append("<tr><th>learner</th><th>chapter</th><th class='n'>points</th><th></th></tr>")
    for page, own in sorted(pages.items()):
        for record in own:
            points = f"{_number(record.points)} / {_number(record.max_points)}" if record.chapter else "–"
            remark = record.reason if record.status != "graded" else ""
            parts.append(
                f"<tr><td><a href='learners/{_text(page)}.html'>{_text(record.learner)}</a></td>"
                f"<td>{_text(record.chapter)}</td><td class='n'>{points}</td>"
                f"<td class='quiet'>{f'not graded: {_text(remark)}' if remark else ''}</td></tr>"
            )
    return PAGE.substitute(title="Grades", body="\n".join([*parts, "</table></section>"]))


def _by_exercise(records: Iterable[Record]) -> dict[tuple[str, str], list[Mark]]:
    """(chapter, exercise) → the marks that were given."""
    found: dict[tuple[str, str], list[Mark]] = {}
    for record in records:
        for mark in record.exercises:
            if mark.points is not None:
                found.setdefault((record.chapter, mark.name), []).append(mark)
    return found


def _share(marks: Sequence[Mark]) -> float:
    """Of all points that could be earned."""
    return sum(mark.points or 0 for mark in marks) / (sum(mark.max_points for mark in marks) or 1)


def _mistakes(records: Iterable[Record]) -> str:
    """The ten hints and reasons that were given to most learners."""
    counts: Counter[tuple[str, str]] = Counter()
    for record in records:
        for mark in record.exercises:
            reason = "" if mark.reason == "not written yet" else mark.reason  # a column of the table above
            counts.update({(mark.name, words) for words in (*mark.hints, reason) if words})
    rows = [
        f"<tr><td class='n'>{count} ×</td><td>{_text(name)}</td><td>{_text(words)}</td></tr>"
        for (name, words), count in sorted(counts.items(), key=lambda item: (-item[1], item[0]))[:10]
    ]
    return f"<section><h2>Common mistakes</h2><table>{''.join(rows)}</table></section>" if rows else ""
