"""An optimizer zoo for PyTorch: one update rule each, drop-in for ``torch.optim`` and proven equal to it."""

from optizoo import lr_scheduler as lr_scheduler
from optizoo import rules as rules
from optizoo import schedulers as schedulers
from optizoo import schedules as schedules
from optizoo.custom import from_rule as from_rule
from optizoo.groups import check_bound as check_bound
from optizoo.groups import param_groups as param_groups
from optizoo.optimizer import RuleOptimizer as RuleOptimizer
from optizoo.optimizer import explain as explain
from optizoo.optimizers import SGD as SGD
from optizoo.optimizers import Adadelta as Adadelta
from optizoo.optimizers import Adagrad as Adagrad
from optizoo.optimizers import Adam as Adam
from optizoo.optimizers import Adamax as Adamax
from optizoo.optimizers import AdamW as AdamW
from optizoo.optimizers import Lion as Lion
from optizoo.optimizers import Momentum as Momentum
from optizoo.optimizers import NAdam as NAdam
from optizoo.optimizers import RAdam as RAdam
from optizoo.optimizers import RMSprop as RMSprop
from optizoo.optimizers import Rprop as Rprop
from optizoo.optimizers import create as create
from optizoo.optimizers import list_optimizers as list_optimizers
from optizoo.schedulers import ScheduleLR as ScheduleLR

__version__ = "0.1.0"
