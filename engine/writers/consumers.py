"""Who loads a compressed-tensors folder, and why not: facts found by running, each with the reason that is shown."""

from collections.abc import Iterator, Sequence
from typing import Any

from engine.readers.kinds import FUSED
from engine.records.model import ModelSummary
from engine.records.plan import Consumer, LayerPlan, Problem
from engine.schemes import family_of
from engine.writers.configuration import targets_by_name

READS_WO = "transformers' T5 reads wo.weight itself, which a compressed layer does not have"
T5_MODELS = ("t5", "mt5", "umt5", "longt5", "switch_transformers", "pix2struct")
EXPERTS_SCALE = "transformers ignores the global scale of experts and computes garbage"
EXPERTS_UNLIKE = "transformers joins experts, which must all have one scheme"
RENAMED = (
    "Some layers are told apart by name, and transformers may call its modules otherwise than the file does; "
    "check the loaded model, or quantize all linear layers alike."
)


def is_quantized(line: LayerPlan) -> bool:
    """Whether a reader must know the layer's scheme."""
    return family_of(line.scheme).quantization_args(line.scheme) is not None


def transformers(summary: ModelSummary, layers: Sequence[LayerPlan], activations: str) -> Consumer:
    """Whether transformers 5.23 with compressed-tensors 0.20 loads a folder by default."""
    quantized = [line for line in layers if is_quantized(line)]
    experts = [line for line in quantized if ".experts." in line.layer.name]
    if any(not line.scheme.symmetric for line in quantized):
        return Consumer("transformers", "no", "its default load fails on packed zero points; dequantize=True works")
    if activations.startswith("int8") and experts:
        return Consumer("transformers", "no", "int-quantized experts fail in its conversion")
    if any(line.scheme.family == "nvfp4" for line in experts):
        return Consumer("transformers", "no", EXPERTS_SCALE)
    if unlike_experts(layers):
        return Consumer("transformers", "no", EXPERTS_UNLIKE)
    if reads_weights_itself(summary, layers):
        return Consumer("transformers", "no", READS_WO)
    if names_may_differ(summary, layers):
        return Consumer("transformers", "untested", "its module names may differ from those on disk")
    return Consumer("transformers", "yes", "with the compressed-tensors package")


def vllm(layers: Sequence[LayerPlan], activations: str) -> Consumer:
    """Whether vLLM loads a folder: the first rule that applies."""
    return next(_vllm_rules(layers, activations), Consumer("vLLM", "yes", ""))


def _vllm_rules(layers: Sequence[LayerPlan], activations: str) -> Iterator[Consumer]:
    quantized = [line for line in layers if is_quantized(line)]
    schemes = {line.scheme for line in quantized}
    families = {scheme.family for scheme in schemes}
    integers = [scheme for scheme in schemes if scheme.family == "int"]
    if any(scheme.bits not in (4, 8) for scheme in integers):
        yield Consumer("vLLM", "no", "it has kernels for 4 and 8 bits only")
    if unlike_fused(layers):
        yield Consumer("vLLM", "no", "fused layers have unlike schemes")
    if any(line.layer.kind == "embedding" for line in quantized):
        yield Consumer("vLLM", "untested", "quantized embeddings")
    if "mxfp6" in families:
        yield Consumer("vLLM", "untested", "mxfp6 weights")
    if families & {"mxfp8", "mxfp4", "nvfp4"}:
        yield Consumer("vLLM", "yes", "on a GPU")
    if any(_ragged_block(line) for line in quantized):
        yield Consumer("vLLM", "untested", "blocks do not divide every layer")
    odd_blocks = any(s.granularity == "block" and (s.block_rows, s.group) != (128, 128) for s in schemes)
    odd_groups = any(s.granularity == "group" and (s.family != "int" or s.group not in (32, 64, 128)) for s in schemes)
    if odd_blocks or odd_groups or any(s.granularity == "tensor" for s in schemes):
        yield Consumer("vLLM", "untested", "this granularity")
    if any(s.bits == 8 for s in schemes) and activations == "none":
        yield Consumer("vLLM", "yes", "on a GPU; it has no CPU kernel for 8-bit weights alone")
    if not all(s.symmetric for s in schemes):
        yield Consumer("vLLM", "untested", "asymmetric weights")


def _ragged_block(line: LayerPlan) -> bool:
    scheme, shape = line.scheme, line.layer.shape
    return scheme.granularity == "block" and bool(shape[0] % (scheme.block_rows or 1) or shape[1] % (scheme.group or 1))


def expert_problems(layers: Sequence[LayerPlan]) -> list[Problem]:
    """What transformers does to quantized experts, said before a run."""
    scaled = next((x for x in layers if is_quantized(x) and x.scheme.family == "nvfp4" and ".experts." in x.layer.name), None)
    problems = []
    if scaled:
        what = f"{scaled.layer.name}: {EXPERTS_SCALE}; keep the experts, or use mxfp4."
        problems.append(Problem("warning", what, scaled.layer.name))
    if unlike := unlike_experts(layers):
        problems.append(
            Problem("warning", f"{unlike.layer.name}: {EXPERTS_UNLIKE}; give all of them the same.", unlike.layer.name)
        )
    return problems


def unlike_experts(layers: Sequence[LayerPlan]) -> LayerPlan | None:
    """The first expert's matrix whose scheme is another than that of its block's first one."""
    first: dict[str, str] = {}
    quantized = {
        line.layer.name.split(".experts.")[0] for line in layers if is_quantized(line) and ".experts." in line.layer.name
    }
    for line in layers:
        stem, _, rest = line.layer.name.partition(".experts.")
        expert = rest and stem in quantized and line.layer.kind == "linear"
        if expert and first.setdefault(stem, line.scheme_name) != line.scheme_name:
            return line
    return None


def unlike_fused(layers: Sequence[LayerPlan]) -> list[Problem]:
    """Layers that one runtime fuses must share one scheme."""
    names = {line.layer.name: line for line in layers}
    problems = []
    for members in FUSED:
        for name in names:
            if not name.endswith(f".{members[0]}"):
                continue
            stem = name[: -len(members[0])]
            found = [names[stem + member] for member in members if stem + member in names]
            schemes = {line.scheme_name for line in found}
            if len(schemes) > 1:
                what = ", ".join(f"{line.layer.name.rsplit('.', 1)[-1]} {line.scheme_name}" for line in found)
                problems.append(Problem("warning", f"{stem[:-1]}: {what}; vLLM fuses them and needs one scheme.", name))
    return problems


def reads_weights_itself(summary: ModelSummary, layers: Sequence[LayerPlan]) -> bool:
    """T5's feed-forward asks for the dtype of its second matrix and fails on a quantized one (transformers 5.23)."""
    model_type = (summary.config or {}).get("model_type")
    return model_type in T5_MODELS and any(line.layer.name.endswith(".wo") for line in layers if is_quantized(line))


def names_may_differ(summary: ModelSummary, layers: Sequence[LayerPlan]) -> bool:
    """Decoders keep the names they have on disk; ViT and other encoders do not, and layers found by name are then missed."""
    architectures: Any = (summary.config or {}).get("architectures")
    named = architectures if isinstance(architectures, list) else []
    decoder = any(str(name).endswith("ForCausalLM") for name in named)
    return not decoder and targets_by_name(layers)
