"""What a Mac can do: a table of chips, profiles of models, and the time one step takes.

A simulated engine paces itself by these functions, and routing starts from them until a Mac
has been measured. They are pure arithmetic over published numbers. The constants were fitted
to 17 published decode speeds of MLX (mean error 2.3 % in sample); expect 15 % elsewhere, and
prefer a provider's own measurement wherever there is one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from market.errors import InvalidRequest
from market.types import Hardware, ModelId

GIB = 2**30

USABLE_MEMORY_SHARE = 0.9
"""Share of what the system recommends for the GPU that the market plans with."""

LOAD_EFFICIENCY = 0.5
"""Share of the disk's reading speed at which weights come in, cold.

14 GB took 7 to 11 s in published runs; what was read before is in memory and comes faster.
"""

WARM_PASSES = 4
"""Forward passes over a model once it is loaded: so many warm both ways of drawing a token."""

BATCH_EFFICIENCY = 0.70
"""Measured over computed throughput of quantised models at batch sizes above one.

Published multi-stream runs (M5 Max 35B-A3B at 3 and 5 streams, M4 Max at 2 to 8) reach 0.65
to 0.75 of what the bandwidth formula gives; full-precision models reach it all.
"""


@dataclass(frozen=True, slots=True)
class Chip:
    """One Apple chip. `prefill_tflops_per_core` is what MLX reaches on long 4-bit prompts.

    `bandwidth_efficiency` is the share of the memory bandwidth that decoding reaches.
    `overhead_scale` multiplies a model's per-layer overhead on this generation. `ssd_gbs` is
    what its own disk reads in sequence.
    """

    name: str
    memory_gb: tuple[int, ...]
    bandwidth_gbs: float
    gpu_cores: int
    cpu_cores: int
    prefill_tflops_per_core: float
    bandwidth_efficiency: float = 0.90
    overhead_scale: float = 1.0
    ssd_gbs: float = 2.8


@dataclass(frozen=True, slots=True)
class ModelProfile:
    """What a model costs to run, apart from how fast the chip is.

    `dense_bytes` are read for every step; `routed_bytes` are a mixture's experts, of which
    each token picks `experts_active` of `experts`. `active_params` is parameters used per
    token. `layer_overhead_us` is the fixed cost of one layer in one step.
    """

    layers: int
    dense_bytes: int
    kv_bytes_per_token: int
    active_params: float
    layer_overhead_us: float
    routed_bytes: int = 0
    experts: int = 0
    experts_active: int = 0
    state_bytes: int = 0
    quantized: bool = True

    @property
    def weight_bytes(self) -> int:
        return self.dense_bytes + self.routed_bytes


_SSD_GBS = {"M1": 2.8, "M2": 2.8, "M3": 2.8, "M4": 2.0, "M5": 6.3}
_SSD_GBS_LARGE = {"M1": 5.8, "M2": 5.4, "M3": 5.4, "M4": 7.0, "M5": 7.0}
"""Of the plain chips, and of Pro, Max and Ultra."""


def _chips() -> dict[str, Chip]:
    """Largest published configuration of each chip; Max rows carry the faster memory.

    Memory, bandwidth and cores are Apple's specifications. Prefill constants are fitted:
    M2 0.17, M3 0.29, M4 0.33, M5 1.35 TFLOP/s per core (neural accelerators); M1 is scaled
    from M2 by llama.cpp's published prefill speeds. Disks are reviewers' Blackmagic readings in
    MacBook Pros: M2 2.8, M4 2.0, M5 6.3, M1 Pro 5.8, M2 Pro 5.4, M4 Max 7 GB/s; others are taken
    to be like the nearest of their kind.
    """
    rows: tuple[tuple[str, tuple[int, ...], float, int, int, float], ...] = (
        ("M1", (8, 16), 68, 8, 8, 0.15),
        ("M1 Pro", (16, 32), 200, 16, 10, 0.15),
        ("M1 Max", (32, 64), 400, 32, 10, 0.15),
        ("M1 Ultra", (64, 128), 800, 64, 20, 0.15),
        ("M2", (8, 16, 24), 100, 10, 8, 0.17),
        ("M2 Pro", (16, 32), 200, 19, 12, 0.17),
        ("M2 Max", (32, 64, 96), 400, 38, 12, 0.17),
        ("M2 Ultra", (64, 128, 192), 800, 76, 24, 0.17),
        ("M3", (8, 16, 24), 100, 10, 8, 0.29),
        ("M3 Pro", (18, 36), 150, 18, 12, 0.29),
        ("M3 Max", (36, 48, 64, 96, 128), 400, 40, 16, 0.29),
        ("M3 Ultra", (96, 256, 512), 819, 80, 32, 0.29),
        ("M4", (16, 24, 32), 120, 10, 10, 0.33),
        ("M4 Pro", (24, 48, 64), 273, 20, 14, 0.33),
        ("M4 Max", (36, 48, 64, 128), 546, 40, 16, 0.33),
        ("M5", (16, 24, 32), 153, 10, 10, 1.35),
        ("M5 Pro", (24, 48, 64), 307, 20, 18, 1.35),
        ("M5 Max", (36, 48, 64, 128), 614, 40, 18, 1.35),
    )
    chips: dict[str, Chip] = {}
    for name, memory, bandwidth, gpu, cpu, tflops in rows:
        efficiency = 0.80 if name.endswith("Ultra") else 0.88 if name == "M2 Max" else 0.90
        overhead = 0.8 if name == "M3 Ultra" else 1.3 if name.startswith(("M1", "M2")) else 1.0
        generation, _, grade = name.partition(" ")
        ssd = (_SSD_GBS_LARGE if grade else _SSD_GBS)[generation]
        chips[name] = Chip(name, memory, bandwidth, gpu, cpu, tflops, efficiency, overhead, ssd)
    return chips


CHIPS: Mapping[str, Chip] = MappingProxyType(_chips())


def _dense(
    layers: int, params_billion: float, bits_per_weight: float, kv_bytes: int, tau_us: float = 80.0
) -> ModelProfile:
    return ModelProfile(
        layers=layers,
        dense_bytes=int(params_billion * 1e9 * bits_per_weight / 8),
        kv_bytes_per_token=kv_bytes,
        active_params=params_billion * 1e9,
        layer_overhead_us=tau_us,
        quantized=bits_per_weight < 16,
    )


def _mixture(
    layers: int,
    dense_billion: float,
    routed_billion: float,
    experts: tuple[int, int],
    bits_per_weight: float,
    kv_bytes: int,
    tau_us: float,
    state_bytes: int = 0,
) -> ModelProfile:
    active, total = experts
    return ModelProfile(
        layers=layers,
        dense_bytes=int(dense_billion * 1e9 * bits_per_weight / 8),
        kv_bytes_per_token=kv_bytes,
        active_params=(dense_billion + routed_billion * active / total) * 1e9,
        layer_overhead_us=tau_us,
        routed_bytes=int(routed_billion * 1e9 * bits_per_weight / 8),
        experts=total,
        experts_active=active,
        state_bytes=state_bytes,
    )


_Q4, _Q8, _BF16 = 4.5, 8.5, 16.0
"""Bits per weight with the scales of 64-weight groups included."""

_DEMO = ModelId("coster/demo")

PROFILES: Mapping[ModelId, ModelProfile] = MappingProxyType(
    {
        # Counted from the architectures of the four large models: parameters split into
        # always-read and routed, key/value bytes of the full-attention layers, and the
        # constant state of windows and recurrent layers.
        ModelId("mlx-community/gemma-4-26b-a4b-it-8bit"): _mixture(
            30, 2.39, 22.84, (8, 128), _Q8, 20_480, 110.0, 210_000_000
        ),
        ModelId("qwen3.5-27b-claude-opus-8bit"): _dense(64, 26.9, _Q8, 65_536, 140.0),
        ModelId("qwen3.5-122b-a10b-8bit"): _mixture(
            48, 5.39, 115.96, (8, 256), _Q8, 24_576, 190.0, 154_000_000
        ),
        ModelId("minimax-m2.5-8bit"): _mixture(62, 3.40, 224.68, (8, 256), _Q8, 253_952, 110.0),
        ModelId("qwen3.5-27b"): _dense(64, 26.9, _Q4, 65_536, 140.0),
        # Rounded from each family's published sizes.
        ModelId("qwen3.5-7b"): _dense(32, 7.6, _Q4, 57_344, 140.0),
        ModelId("llama-3.3-8b"): _dense(32, 8.03, _Q4, 131_072),
        ModelId("mistral-nemo-12b"): _dense(40, 12.2, _Q4, 163_840),
        ModelId("gemma-4-12b"): _dense(48, 12.0, _Q4, 65_536),
        ModelId("qwen3.5-14b"): _dense(40, 14.8, _Q4, 65_536, 140.0),
        ModelId("llama-3.3-70b"): _dense(80, 70.6, _Q4, 327_680),
        ModelId("deepseek-v3"): _mixture(61, 17.0, 654.0, (8, 256), _Q4, 70_272, 190.0),
        _DEMO: _dense(4, 0.0006, _BF16, 2_048),
    }
)


def chip_named(name: str) -> Chip:
    """The chip of this name; raises InvalidRequest listing the known ones."""
    chip = CHIPS.get(name)
    if chip is None:
        raise InvalidRequest(
            f"Unknown chip {name[:60]!r}; known chips: {', '.join(CHIPS)}.", "chip", "unknown_chip"
        )
    return chip


def hardware_of(name: str, memory_gb: int | None = None) -> Hardware:
    """A Mac with this chip; the largest published memory when none is given."""
    chip = chip_named(name)
    return Hardware(
        chip=chip.name,
        memory_gb=memory_gb if memory_gb is not None else chip.memory_gb[-1],
        gpu_cores=chip.gpu_cores,
        cpu_cores=chip.cpu_cores,
        bandwidth_gbs=chip.bandwidth_gbs,
    )


def profile_of(model: ModelId) -> ModelProfile:
    """The profile of a catalogue model; an unknown one counts as an 8B model at 4 bit."""
    return PROFILES.get(model, PROFILES[ModelId("llama-3.3-8b")])


def memory_budget_bytes(memory_gb: int) -> int:
    """GPU memory to plan with: 2/3 of the RAM up to 32 GB, 3/4 above, less a tenth.

    The shares are what Metal recommends as working set; a running Mac asks Metal itself.
    """
    share = 2 / 3 if memory_gb <= 32 else 3 / 4
    return int(memory_gb * GIB * share * USABLE_MEMORY_SHARE)


def streamed_bytes(profile: ModelProfile, batch: int, context_tokens: float) -> float:
    """Bytes read from memory for one decode step of `batch` sequences.

    A mixture's experts are read as a union: with B tokens each picking k of E, the expected
    share touched is 1 - (1 - k/E)^B.
    """
    touched = 0.0
    if profile.experts:
        touched = 1.0 - (1.0 - profile.experts_active / profile.experts) ** batch
    per_sequence = profile.kv_bytes_per_token * context_tokens + profile.state_bytes
    return profile.dense_bytes + profile.routed_bytes * touched + batch * per_sequence


def step_ms(chip: Chip, profile: ModelProfile, batch: int, context_tokens: float) -> float:
    """Milliseconds of one decode step: `batch` sequences of mean length `context_tokens`.

    Fixed cost per layer plus bytes over reached bandwidth, never below what the arithmetic
    takes; batches of quantised models are slower than that by `BATCH_EFFICIENCY`.
    """
    if batch < 1:
        return 0.0
    overhead_s = profile.layers * profile.layer_overhead_us * chip.overhead_scale * 1e-6
    bandwidth = chip.bandwidth_efficiency * chip.bandwidth_gbs * 1e9
    read_s = streamed_bytes(profile, batch, context_tokens) / bandwidth
    arithmetic_s = batch * 2.0 * profile.active_params / _flops(chip)
    step_s = max(overhead_s + read_s, arithmetic_s)
    if batch > 1 and profile.quantized:
        step_s /= BATCH_EFFICIENCY
    return step_s * 1e3


def decode_tps(chip: Chip, profile: ModelProfile, batch: int, context_tokens: float) -> float:
    """Tokens per second of the whole batch."""
    return batch * 1e3 / step_ms(chip, profile, batch, context_tokens) if batch else 0.0


def prefill_tps(chip: Chip, profile: ModelProfile) -> float:
    """Prompt tokens per second of long prompts."""
    return _flops(chip) / (2.0 * profile.active_params)


def prefill_ms(chip: Chip, profile: ModelProfile, tokens: int) -> float:
    """Milliseconds to process `tokens` of prompt, at least one pass over the weights."""
    if tokens < 1:
        return 0.0
    return max(tokens * 1e3 / prefill_tps(chip, profile), step_ms(chip, profile, 1, tokens))


def load_bytes_per_s(chip: Chip) -> float:
    """How fast weights come from this chip's own disk into memory."""
    return LOAD_EFFICIENCY * chip.ssd_gbs * 1e9


def warm_ms(chip: Chip, profile: ModelProfile) -> float:
    """Milliseconds of the passes that a freshly loaded model makes before it serves."""
    return WARM_PASSES * step_ms(chip, profile, 1, 0.0)


def _flops(chip: Chip) -> float:
    return chip.prefill_tflops_per_core * chip.gpu_cores * 1e12
