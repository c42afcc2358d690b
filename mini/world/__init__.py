"""The drawn world.

A clip is 64×64 pixels, 9 frames at 8 fps. Smaller will not do: with two people in the frame a face is 16 to
20 pixels wide, and its eyes, the smallest thing that tells people apart, four. Nine frames, the least that
the video VAE packs into three latent frames, last 1.1 seconds: two strides, two jumps, one full turn.
"""

SIZE_PX = 64
NUM_FRAMES = 9
FPS = 8
# Reference pictures are square, and larger than a frame as they are in reality.
REFERENCE_PX = 128
