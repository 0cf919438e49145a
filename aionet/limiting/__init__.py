"""What limits ask for, and what carries out each part of it. People name `ConnectionLimits` only."""
