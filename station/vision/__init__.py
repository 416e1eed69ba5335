"""The method: a picture in, class probabilities and a heat map out. Imports torch, numpy and OpenCV, and nothing of the station.

preprocess   camera pixels of any format -> RGB at the network's size          sec. 3.1
dvgg16       four VGG16 trunks, two D-VGG16s, bilinear pooling, logits         Eq. 1-3
gradcam      the heat map in closed form, within the same forward pass         Eq. 4-5
segment      heat map -> regions in camera pixels, fixed or Otsu               Eq. 6
weights      the weights file: tensors and the description they belong to
engine       a network that runs: frame in, scores and heat map out
  torch_cpu, openvino_cpu, cuda   by which library, where; device_preprocess does on the device what preprocess does with OpenCV
parity       the gate: an engine judges parts only if it says what the fp32 network says
built        engines built, compared and kept on this machine
"""
