// Kept at this name for what includes it from the host; the class is the model's.
#pragma once

#include "model/float_environment.h"
