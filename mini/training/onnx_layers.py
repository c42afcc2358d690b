"""Layers of a trained torch network as nodes of an ONNX graph, one for one."""

from __future__ import annotations

from typing import Any

from torch import nn

from refbench.metrics.nets.curricularface import ResidualUnit
from refbench.metrics.small.facesim import tensor


class OnnxLayers:
    """Collects the nodes and constants of the modules that are added; `prefix` begins all of their names."""

    def __init__(self, prefix: str) -> None:
        self.prefix = prefix
        self.nodes: list[Any] = []
        self.tensors: list[Any] = []

    def add(self, module: nn.Module, source: str) -> str:
        """Add a module that reads `source`; the name of its result. Raises TypeError for an unknown kind."""
        match module:
            case nn.Sequential():
                for part in module:
                    source = self.add(part, source)
                return source
            case ResidualUnit():
                shortcut = self.add(module.shortcut_layer, source)
                return self.node("Add", [shortcut, self.add(module.res_layer, source)])
            case nn.Conv2d():
                constants = [module.weight] + ([module.bias] if module.bias is not None else [])
                padding = [int(side) for side in module.padding] * 2
                return self.node("Conv", [source], constants, strides=list(module.stride), pads=padding)
            case nn.BatchNorm2d() | nn.BatchNorm1d():
                mean, variance = module.running_mean, module.running_var
                weight = module.weight if module.affine else variance.new_ones(variance.shape)
                bias = module.bias if module.affine else variance.new_zeros(variance.shape)
                constants = [weight, bias, mean, variance]
                return self.node("BatchNormalization", [source], constants, epsilon=module.eps)
            case nn.PReLU():
                return self.node("PRelu", [source], [module.weight[:, None, None]])
            case nn.ReLU():
                return self.node("Relu", [source])
            case nn.MaxPool2d():
                sides = {"kernel_shape": [module.kernel_size] * 2, "strides": [module.stride] * 2}
                return self.node("MaxPool", [source], **sides)
            case nn.AvgPool2d():
                sides = {"kernel_shape": [module.kernel_size] * 2, "strides": [module.stride] * 2}
                return self.node("AveragePool", [source], **sides)
            case nn.Dropout():
                return source
            case nn.Flatten():
                return self.node("Flatten", [source])
            case nn.Linear():
                return self.node("Gemm", [source], [module.weight, module.bias], transB=1)
        raise TypeError(f"{type(module).__name__} has no ONNX nodes here")

    def node(self, kind: str, sources: list[str], constants: list[Any] | None = None, **settings: Any) -> str:
        """Add one node with constants after its sources; the name of its result."""
        from onnx import helper

        result = f"{self.prefix}{len(self.nodes)}"
        names = []
        for number, constant in enumerate(constants or []):
            names.append(f"{result}_{number}")
            self.tensors.append(tensor(names[-1], constant.detach().cpu().float().numpy()))
        self.nodes.append(helper.make_node(kind, [*sources, *names], [result], **settings))
        return result

    def call_result(self, name: str) -> None:
        """Give the last node's result another name."""
        self.nodes[-1].output[0] = name
