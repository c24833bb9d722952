"""What an engine really holds in memory, module by module: the answer to "is it quantized, and by which kernel?".

A file says what it is meant to be; this says what came of it after the library fused, repacked or
dequantized the weights. Standard library only; torch modules are walked, never imported.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

__all__ = ["Held", "Loaded", "loaded_from"]


@dataclass(frozen=True, slots=True)
class Held:
    """One module with weights.

    ``layers`` are the layers of the folder that it stands for: several where the engine fused them.
    ``method``, ``scheme`` and ``kernel`` are classes of the engine that compute it ("" where there is
    none). ``dtypes`` and ``bytes`` are of its parameters and buffers; ``packed`` of these bytes lie in
    oneDNN's own form, out of torch's sight, and are derived from the weight's shape and dtype (the
    weight itself is then released, but for an embedding that is also the output layer).
    """

    name: str
    layers: tuple[str, ...]
    kind: str
    method: str
    scheme: str
    kernel: str
    dtypes: tuple[str, ...]
    bytes: int
    packed: int = 0


@dataclass(frozen=True, slots=True)
class Loaded:
    """All modules with weights. A tensor that several modules share is counted with the first."""

    modules: tuple[Held, ...]

    @property
    def bytes(self) -> int:
        """Bytes of all parameters and buffers, packed ones included."""
        return sum(module.bytes for module in self.modules)


def loaded_from(model: Any, fused: Mapping[str, Sequence[str]] | None = None) -> Loaded:
    """The modules of a torch model that hold tensors of their own; ``fused`` names what one of the engine's stands for."""
    seen: set[int] = set()
    held = [_held(name, module, fused or {}, seen) for name, module in model.named_modules()]
    return Loaded(tuple(each for each in held if each.bytes))


def _held(name: str, module: Any, fused: Mapping[str, Sequence[str]], seen: set[int]) -> Held:
    owned = (*module.parameters(recurse=False), *module.buffers(recurse=False), *_scales(module))
    tensors = [t for t in owned if t.numel() and _new(t, seen)]
    method, scheme = getattr(module, "quant_method", None), getattr(module, "scheme", None)
    kernel = _kernel(scheme, method)
    packed = _packed(module, kernel)
    dtypes = {str(tensor.dtype).removeprefix("torch.") for tensor in tensors} | set(packed)
    stem, _, last = name.rpartition(".")
    layers = tuple(f"{stem}.{part}" if stem else part for part in fused.get(last, (last,)))
    return Held(
        name,
        layers,
        type(module).__name__,
        _class(method),
        _class(scheme),
        _class(kernel) or _class(_handler(module, None)),
        tuple(sorted(dtypes)),
        sum(tensor.numel() * tensor.element_size() for tensor in tensors) + sum(packed.values()),
        sum(packed.values()),
    )


def _scales(module: Any) -> list[Any]:
    """bitsandbytes keeps a weight's scales beside it, where torch does not look; doubly quantized ones have scales of their own."""
    state = getattr(getattr(module, "weight", None), "quant_state", None)
    nested = getattr(state, "state2", None)
    found = [getattr(owner, name, None) for owner in (state, nested) for name in ("absmax", "code")]
    return [tensor for tensor in found if hasattr(tensor, "data_ptr")]


def _new(tensor: Any, seen: set[int]) -> bool:
    place = int(tensor.data_ptr())
    if place in seen:
        return False
    seen.add(place)
    return True


def _class(thing: Any) -> str:
    return "" if thing is None else type(thing).__name__


def _kernel(*owners: Any) -> Any:
    """The kernel that a scheme or method chose: vLLM keeps it as an attribute, under several names."""
    for owner in owners:
        for value in vars(owner).values() if hasattr(owner, "__dict__") else ():
            if ".kernels." in type(value).__module__:
                return value
    return None


def _packed(module: Any, kernel: Any) -> dict[str, int]:
    """Bytes by dtype that oneDNN holds for a module: a copy of its weight in blocks."""
    handler, weight = _handler(module, kernel), getattr(module, "weight", None)
    if handler is None:
        return {}
    count = int(handler.n) * int(handler.k)
    if weight is None:  # released by the INT8 kernel; the others leave an empty one
        return {"int8": count}
    return {str(weight.dtype).removeprefix("torch."): count * int(weight.element_size())}


def _handler(module: Any, kernel: Any) -> Any:
    """The object that holds a weight for oneDNN: of the kernel, or bound in the function that multiplies."""
    bound: Iterable[Any] = (cell.cell_contents for cell in getattr(getattr(module, "cpu_linear", None), "__closure__", None) or ())
    found = [getattr(kernel, "dnnl_handler", None), *bound]
    return next((each for each in found if hasattr(each, "n") and hasattr(each, "k")), None)
