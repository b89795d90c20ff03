"""Measures of what a generator makes and of how its training goes.

Each is a function, with a meter of the same name where data come in batches. Known modes and the readings of a series
are modules too, since both have a `forgetting`: `metrics.modes` (between two times), `metrics.series` (over all).
"""

from stabilgan.metrics import modes, series
from stabilgan.metrics.birthday import Birthday, BirthdayMeter, birthday_support, birthday_test
from stabilgan.metrics.comparing import Compared, compare, half_sample_interval
from stabilgan.metrics.evaluation import Evaluation, evaluate
from stabilgan.metrics.field import GameField
from stabilgan.metrics.frechet import Frechet, FrechetMeter, SmallSampleWarning, frechet_distance, gaussian_distance
from stabilgan.metrics.gap import DualityGap, duality_gap
from stabilgan.metrics.gaussian import Gaussian
from stabilgan.metrics.gradients import GradientNorms, gradient_norm, gradient_norms
from stabilgan.metrics.jacobian import JacobianEigenvalues, jacobian_eigenvalues
from stabilgan.metrics.kernel import KernelDistance, KernelDistanceMeter, kernel_distance
from stabilgan.metrics.memorisation import Authenticity, AuthenticityMeter, authenticity
from stabilgan.metrics.modes import (
    LabelModesMeter,
    MixtureModesMeter,
    Modes,
    churn,
    joint_labels,
    label_modes,
    mixture_modes,
)
from stabilgan.metrics.ms_ssim import MSSSIMDiversity, MSSSIMDiversityMeter, ms_ssim, ms_ssim_diversity
from stabilgan.metrics.ndb import NDB, NDBMeter, ndb
from stabilgan.metrics.neighbours import nearest
from stabilgan.metrics.overfitting import Overfitting, overfitting
from stabilgan.metrics.path import PathAngle, path_angle
from stabilgan.metrics.pqmass import PQMass, PQMassMeter, pqmass
from stabilgan.metrics.prdc import PRDC, PRDCMeter, expected_coverage, prdc
from stabilgan.metrics.sliced import SlicedWasserstein, SlicedWassersteinMeter, sliced_wasserstein
from stabilgan.metrics.vendi import FKEAMeter, RKEMeter, Vendi, VendiMeter, fkea, median_distance, rke, vendi_score
from stabilgan.metrics.weights import singular_values

__all__ = [
    "NDB",
    "PRDC",
    "Authenticity",
    "AuthenticityMeter",
    "Birthday",
    "BirthdayMeter",
    "Compared",
    "DualityGap",
    "Evaluation",
    "FKEAMeter",
    "Frechet",
    "FrechetMeter",
    "GameField",
    "Gaussian",
    "GradientNorms",
    "JacobianEigenvalues",
    "KernelDistance",
    "KernelDistanceMeter",
    "LabelModesMeter",
    "MSSSIMDiversity",
    "MSSSIMDiversityMeter",
    "MixtureModesMeter",
    "Modes",
    "NDBMeter",
    "Overfitting",
    "PQMass",
    "PQMassMeter",
    "PRDCMeter",
    "PathAngle",
    "RKEMeter",
    "SlicedWasserstein",
    "SlicedWassersteinMeter",
    "SmallSampleWarning",
    "Vendi",
    "VendiMeter",
    "authenticity",
    "birthday_support",
    "birthday_test",
    "churn",
    "compare",
    "duality_gap",
    "evaluate",
    "expected_coverage",
    "fkea",
    "frechet_distance",
    "gaussian_distance",
    "gradient_norm",
    "gradient_norms",
    "half_sample_interval",
    "jacobian_eigenvalues",
    "joint_labels",
    "kernel_distance",
    "label_modes",
    "median_distance",
    "mixture_modes",
    "modes",
    "ms_ssim",
    "ms_ssim_diversity",
    "ndb",
    "nearest",
    "overfitting",
    "path_angle",
    "pqmass",
    "prdc",
    "rke",
    "series",
    "singular_values",
    "sliced_wasserstein",
    "vendi_score",
]
