# ResNet-ACmix-50 on ImageNet-1k (ACmix, section 5.1), 8 GPUs x 32 images.
# The paper reports 77.8 % top-1 (figure 4a), where ResNet-50 has 76.9 %. It seems to count the
# weights of the shift convolutions twice.
_base_ = './_base_/resnet_acmix_classifier.py'
