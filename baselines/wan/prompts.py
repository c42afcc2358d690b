"""Prompts of the Wan family: negative prompts as data with their sources, and how a prompt is cleaned.

All original code steers away from a long keyword list; diffusers' default, an empty string, is another
setting.
The lists are quoted because a run cannot be reproduced without them.
"""

from __future__ import annotations

import html
import re

MAX_TEXT_TOKENS = 512

# Wan2.1's default: `wan/configs/shared_config.py` of Wan-Video/Wan2.1@9737cba; also VACE's and Phantom's.
WAN_NEGATIVE = (
    "色调艳丽，过曝，静态，细节模糊不清，字幕，风格，作品，画作，画面，静止，整体发灰，最差质量，低质量，"
    "JPEG压缩残留，丑陋的，残缺的，多余的手指，画得不好的手部，画得不好的脸部，畸形的，毁容的，形态畸形的肢体，"
    "手指融合，静止不动的画面，杂乱的背景，三条腿，背景人很多，倒着走"
)
# `configs/magref_14B.py` of MAGREF-Video/MAGREF@e3c71b2: camera shake, then Wan's list.
MAGREF_NEGATIVE = "镜头晃动，" + WAN_NEGATIVE
# zai-org/Kaleido@4c6c757: Wan's list without the badly drawn face.
KALEIDO_NEGATIVE = WAN_NEGATIVE.replace("画得不好的脸部，", "")
# `infer.py` of SkyworkAI/SkyReels-A2@7c14e2e.
SKYREELS_A2_NEGATIVE = (
    "Bright tones, overexposed, static, blurred details, subtitles, style, works, paintings, images, static, "
    "overall gray, worst quality, low quality, JPEG compression residue, ugly, incomplete, extra fingers, "
    "poorly drawn hands, poorly drawn faces, deformed, disfigured, misshapen limbs, fused fingers, still "
    "picture, messy background, three legs, many people in the background, walking backwards"
)
# `examples/wanvideo/model_training/lora/run_inference14b.py` of gudaochangsheng/RefAlign: Wan's list, then
# terms against drawn, rendered and unnatural pictures.
REFALIGN_14B_NEGATIVE = (
    WAN_NEGATIVE
    + "，动画风，二次元，动漫，漫画，插画，手绘，卡通，Q版，赛璐璐风格，概念艺术，数字绘画，非写实，"
    "风格化渲染，3D渲染，CG感，游戏CG，塑料质感，蜡像感，假人感，建模感，过度磨皮，过度锐化，不真实的光影，"
    "不真实的材质，不真实的肤色，艺术化处理，电影特效感，面部僵硬，表情不自然，五官失真，人脸不真实，身体比例异常，"
    "动作不自然，运动轨迹异常，帧间闪烁，轮廓抖动，局部扭曲，背景跳变，卡顿，不连贯，低真实感"
)


def cleaned_prompt(text: str) -> str:
    """A prompt as Wan's tokenizer wrapper cleans it: broken Unicode mended, HTML entities resolved twice,
    white space collapsed (`wan/modules/tokenizers.py`).
    """
    import ftfy

    mended = html.unescape(html.unescape(ftfy.fix_text(text)))
    return re.sub(r"\s+", " ", mended).strip()
