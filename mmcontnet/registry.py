"""The ``mmcontnet`` scope, so that ``type='mmcontnet.ConTNet'`` works with no import in the config.

Classes are registered in mmengine's root registry, where every OpenMMLab scope finds them by their
plain name. The child registry below holds nothing of its own: mmengine imports this module when it
meets the ``mmcontnet.`` prefix, the locations fill the root, and the lookup falls through to it.
"""

from mmengine.registry import MODELS as ROOT_MODELS
from mmengine.registry import Registry

MODELS = Registry('model', parent=ROOT_MODELS, scope='mmcontnet', locations=['mmcontnet'])
