"""What llm-compressor makes of a checkpoint: `.peers/llmcompressor/bin/python peers/llmcompressor_oracle.py MODEL OUT ARGS`.

ARGS is JSON: the `QuantizationArgs` of the weights. Embeddings and the router stay as they are.
"""

import json
import sys

from compressed_tensors.quantization import QuantizationArgs, QuantizationScheme
from llmcompressor import model_free_ptq


def main(model: str, out: str, args: str) -> None:
    """Quantizes a folder into another."""
    scheme = QuantizationScheme(targets=["Linear"], weights=QuantizationArgs(**json.loads(args)))
    ignore = ["lm_head", "re:.*embed_tokens", "re:.*mlp.gate$"]
    model_free_ptq(
        model_stub=model, save_directory=out, scheme=scheme, ignore=ignore, max_workers=1, device="cpu"
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
