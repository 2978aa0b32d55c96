"""What rouge-score and NLTK make of texts: `.peers/rouge-score/bin/python peers/rouge_oracle.py FOLDER`.

Reads FOLDER/cases.json (`pairs` of texts, `words`), writes FOLDER/out.json: for each pair and each of `use_stemmer`
False and True the precision, recall and F-measure of ROUGE-L, for each word its stem, and the CPU milliseconds of a pair
without the stemmer.
"""

import json
import sys
from pathlib import Path

from clock import median_ms
from nltk.stem.porter import PorterStemmer
from rouge_score.rouge_scorer import RougeScorer


def main() -> None:
    """Answers every case of the folder."""
    folder = Path(sys.argv[1])
    cases = json.loads((folder / "cases.json").read_text())
    scorers = [RougeScorer(["rougeL"], use_stemmer=stemmed) for stemmed in (False, True)]
    scores = [
        [list(scorer.score(target=reference, prediction=prediction)["rougeL"]) for scorer in scorers]
        for prediction, reference in cases["pairs"]
    ]
    stemmer = PorterStemmer()
    every = median_ms(lambda: [scorers[0].score(target=b, prediction=a) for a, b in cases["pairs"][:300]], 3)
    answers = {
        "scores": scores,
        "stems": [stemmer.stem(word) for word in cases["words"]],
        "ms_per_pair": every / max(len(cases["pairs"][:300]), 1),
    }
    (folder / "out.json").write_text(json.dumps(answers))


if __name__ == "__main__":
    main()
