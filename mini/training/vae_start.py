"""A start for the VAE: a linear code of 8×8 pixels by principal components, written into its convolutions.

From random weights a network this small needs hours to find what a linear code gives at once. So residual
blocks and attention begin as nothing, downsampling convolutions as the principal components of what they
see, and the two heads and the upsampling convolutions as the least-squares answer to what they are given. In
time, frames are averaged going in and repeated coming out. A channel of a constant keeps the norms of the
heads from swallowing brightness. Training begins there.

Shapes: N places, C channels, H W rows and columns, K inputs of a convolution.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn import functional

# The constant at the finest level; a coarser level has twice its energy, as the signal has.
CONSTANT = 2.0
RIDGE = 1e-4
MOST_PLACES = 20_000


@torch.no_grad()
def start_as_components(vae: Any, pictures_B3HW: torch.Tensor, log_variance: float) -> None:
    """Write the linear code of these pictures, in [-1,1], into an untrained `AutoencoderKLWan` that is not
    residual, has patches of 2 pixels and halves twice.
    """
    from diffusers.models.autoencoders.autoencoder_kl_wan import patchify

    _silence(vae)
    encoder, decoder = vae.encoder, vae.decoder
    pixels_BCHW = patchify(pictures_B3HW[:, :, None], vae.config.patch_size)[:, :, 0]
    levels = [pixels_BCHW]
    constant = CONSTANT
    convolution = encoder.conv_in
    _pass_on(convolution, pixels_BCHW.shape[1], constant)
    states_BCHW = _run(convolution, pixels_BCHW)
    for layer in encoder.down_blocks:
        if type(layer).__name__ == "WanResample":
            data = levels[-1].shape[1]
            _write_components(layer.resample[1], layer.resample[0](states_BCHW), data)
            if hasattr(layer, "time_conv"):
                _average_in_time(layer.time_conv)
            constant *= 2
            states_BCHW = layer.resample(states_BCHW)
            levels.append(states_BCHW[:, :-1])
        else:
            states_BCHW = _run(layer, states_BCHW)
    states_BCHW = functional.silu(_run(encoder.norm_out, states_BCHW))
    latents = vae.config.z_dim
    deviations_C = levels[-1][:, :latents].std(dim=(0, 2, 3))
    wanted_BCHW = levels[-1][:, :latents] / deviations_C[:, None, None]
    nn.init.zeros_(encoder.conv_out.weight)
    nn.init.zeros_(encoder.conv_out.bias)
    _solve(encoder.conv_out, states_BCHW, wanted_BCHW, reach=0)
    encoder.conv_out.bias[latents:] = log_variance
    for module in (vae.quant_conv, vae.post_quant_conv):
        _become_identity(module)
    latents_BCHW = _run(encoder.conv_out, states_BCHW)[:, :latents]

    _pass_on(decoder.conv_in, latents, constant)
    decoder.conv_in.weight[:latents, :latents, -1, 1, 1] = torch.diag(deviations_C)
    states_BCHW = _run(decoder.conv_in, latents_BCHW)
    for block in decoder.up_blocks:
        for resnet in block.resnets:
            states_BCHW = _run(resnet, states_BCHW)
        if block.upsamplers is not None:
            levels.pop()
            constant /= 2
            upsample = block.upsamplers[0]
            if hasattr(upsample, "time_conv"):
                _repeat_in_time(upsample.time_conv)
            convolution = upsample.resample[1]
            wanted_BCHW = levels[-1][:, : convolution.out_channels - 1]
            nn.init.zeros_(convolution.weight)
            nn.init.zeros_(convolution.bias)
            _solve(convolution, upsample.resample[0](states_BCHW), wanted_BCHW, reach=1)
            convolution.bias[-1] = constant
            states_BCHW = upsample.resample(states_BCHW)
    states_BCHW = functional.silu(_run(decoder.norm_out, states_BCHW))
    nn.init.zeros_(decoder.conv_out.weight)
    _solve(decoder.conv_out, states_BCHW, pixels_BCHW, reach=1)


def _silence(vae: Any) -> None:
    """Residual blocks hand on what they get, attention adds nothing."""
    for module in vae.modules():
        kind = type(module).__name__
        if kind == "WanResidualBlock":
            nn.init.zeros_(module.conv2.weight)
            nn.init.zeros_(module.conv2.bias)
            if not isinstance(module.conv_shortcut, nn.Identity):
                _become_identity(module.conv_shortcut, keep_last=True)
        elif kind == "WanAttentionBlock":
            nn.init.zeros_(module.proj.weight)
            nn.init.zeros_(module.proj.bias)


def _become_identity(convolution: Any, *, keep_last: bool = False) -> None:
    """A 1×1 convolution that hands its channels on; with `keep_last` the last one stays the last."""
    nn.init.zeros_(convolution.weight)
    nn.init.zeros_(convolution.bias)
    given, made = convolution.in_channels, convolution.out_channels
    for channel in range(min(given, made) - keep_last):
        convolution.weight[channel, channel] = 1.0
    if keep_last:
        convolution.weight[-1, -1] = 1.0


def _pass_on(convolution: Any, channels: int, constant: float) -> None:
    """A first convolution that hands on its channels, and as the last one a constant."""
    nn.init.zeros_(convolution.weight)
    nn.init.zeros_(convolution.bias)
    for channel in range(channels):
        convolution.weight[channel, channel, -1, 1, 1] = 1.0
    convolution.bias[-1] = constant


def _write_components(convolution: Any, padded_BCHW: torch.Tensor, data: int) -> None:
    """Let a convolution of stride 2 give the principal components of the first `data` channels of 2×2 places,
    without their mean, and as its last channel twice the constant.
    """
    blocks_NK = functional.unfold(padded_BCHW[:, :data, :-1, :-1], 2, stride=2)
    blocks_NK = blocks_NK.transpose(1, 2).flatten(0, 1)
    mean_K = blocks_NK.mean(dim=0)
    _, vectors_KK = torch.linalg.eigh(((blocks_NK - mean_K).T @ (blocks_NK - mean_K)).double())
    kept = min(convolution.out_channels - 1, vectors_KK.shape[1])
    components_CK = vectors_KK.flip(1)[:, :kept].T.float()
    # The sign of an eigenvector is the library's choice: its largest entry is made positive.
    largest = components_CK.abs().argmax(dim=1, keepdim=True)
    components_CK = components_CK * components_CK.gather(1, largest).sign()
    nn.init.zeros_(convolution.weight)
    nn.init.zeros_(convolution.bias)
    convolution.weight[:kept, :data, :2, :2] = components_CK.view(kept, data, 2, 2)
    convolution.bias[:kept] = -components_CK @ mean_K
    convolution.weight[-1, -1, 1, 1] = 2.0


def _average_in_time(convolution: Any) -> None:
    """Two frames become their mean; the frame before them has no part in it yet."""
    nn.init.zeros_(convolution.weight)
    nn.init.zeros_(convolution.bias)
    identity = torch.eye(convolution.in_channels)
    convolution.weight[:, :, 1, 0, 0] = identity / 2
    convolution.weight[:, :, 2, 0, 0] = identity / 2


def _repeat_in_time(convolution: Any) -> None:
    """A frame becomes two like it."""
    nn.init.zeros_(convolution.weight)
    nn.init.zeros_(convolution.bias)
    identity = torch.eye(convolution.in_channels)
    convolution.weight[:, :, -1, 0, 0] = torch.cat([identity, identity])


def _solve(convolution: Any, given_BCHW: torch.Tensor, wanted_BCHW: torch.Tensor, reach: int) -> None:
    """The weights and bias with the least squared error from `given` to the first channels of the output;
    `reach` 1 uses the 3×3 places around, 0 the place alone. Later channels stay as they are.
    """
    side = 2 * reach + 1
    inputs_NK = functional.unfold(given_BCHW, side, padding=reach).transpose(1, 2).flatten(0, 1)
    wanted_NC = wanted_BCHW.flatten(2).transpose(1, 2).flatten(0, 1)
    stride = max(len(inputs_NK) // MOST_PLACES, 1)
    inputs_NK, wanted_NC = inputs_NK[::stride].double(), wanted_NC[::stride].double()
    mean_K, mean_C = inputs_NK.mean(dim=0), wanted_NC.mean(dim=0)
    inputs_NK, wanted_NC = inputs_NK - mean_K, wanted_NC - mean_C
    gram_KK = inputs_NK.T @ inputs_NK / len(inputs_NK)
    gram_KK += RIDGE * gram_KK.diagonal().mean() * torch.eye(len(gram_KK), dtype=gram_KK.dtype)
    weight_KC = torch.linalg.solve(gram_KK, inputs_NK.T @ wanted_NC / len(inputs_NK))
    made, channels = weight_KC.shape[1], given_BCHW.shape[1]
    weight = weight_KC.T.view(made, channels, side, side).float()
    centre = slice(1 - reach, 2 + reach)
    # Of a convolution in space and time the last place in time is the present.
    weights = convolution.weight[:, :, -1] if convolution.weight.dim() == 5 else convolution.weight
    weights[:made, :, centre, centre] = weight
    convolution.bias[:made] = (mean_C - mean_K @ weight_KC).float()


def _run(module: Any, states_BCHW: torch.Tensor) -> torch.Tensor:
    """A layer for frames that stand alone."""
    result: torch.Tensor = module(states_BCHW[:, :, None])[:, :, 0]
    return result
