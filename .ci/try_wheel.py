"""Tries the package that is installed beside this Python: ``make dist`` runs it in an environment that has the wheel alone."""

import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path

import sb3_asym
from sb3_asym import AsymSAC
from sb3_asym.export import export_c
from sb3_asym.zoo import hyperparameters_path

package = Path(sb3_asym.__file__).parent
installed = Path(sysconfig.get_path("purelib"))
if not package.is_relative_to(installed):
    sys.exit(f"This is not the wheel, but {package}.")

command = [str(Path(sysconfig.get_path("scripts")) / "sb3-asym"), "--version"]
version = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
if version != sb3_asym.__version__:
    sys.exit(f"sb3-asym --version says {version}, the package {sb3_asym.__version__}.")

if not hyperparameters_path().is_relative_to(package) or "Pendulum-v1" not in hyperparameters_path().read_text():
    sys.exit(f"The wheel lacks the hyperparameters: {hyperparameters_path()}.")

model = AsymSAC("MlpPolicy", "Pendulum-v1", learning_starts=50, policy_kwargs={"net_arch": [8, 8]}, device="cpu").learn(100)
with tempfile.TemporaryDirectory() as folder:
    model.save(Path(folder) / "agent")
    AsymSAC.load(Path(folder) / "agent", device="cpu")
    export_c(model, Path(folder) / "export")
print(f"The wheel of sb3-asym {version} works.")
