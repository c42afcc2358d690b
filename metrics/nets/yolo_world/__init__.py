"""YOLO-World v2 with its image-prompt adapter, the detector of NexusScore."""
