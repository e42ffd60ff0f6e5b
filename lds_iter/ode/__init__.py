"""Ordinary differential equations, solved for all steps at once: `odeint` as torchdiffeq has it."""

from lds_iter.ode.adaptive import adaptive_grid as adaptive_grid
from lds_iter.ode.explicit import ExplicitRungeKutta as ExplicitRungeKutta
from lds_iter.ode.implicit import AbstractImplicit as AbstractImplicit
from lds_iter.ode.implicit import ExponentialMidpoint as ExponentialMidpoint
from lds_iter.ode.implicit import ImplicitEuler as ImplicitEuler
from lds_iter.ode.implicit import ImplicitMidpoint as ImplicitMidpoint
from lds_iter.ode.implicit import Trapezoid as Trapezoid
from lds_iter.ode.integrate import Trajectory as Trajectory
from lds_iter.ode.integrate import integrate as integrate
from lds_iter.ode.integrate import recurrence as recurrence
from lds_iter.ode.methods import METHODS as METHODS
from lds_iter.ode.midpoint import MidpointJacobian as MidpointJacobian
from lds_iter.ode.odeint import odeint as odeint
from lds_iter.ode.odeint import odeint_adjoint as odeint_adjoint
