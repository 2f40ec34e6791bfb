package kms

// Weak returns o with a scrypt work factor that makes tests quick.
func Weak(o Options) Options {
	o.workFactor = 4
	return o
}

// The work factors that production uses.
const (
	ScryptWorkFactor    = scryptWorkFactor
	MaxScryptWorkFactor = maxScryptWorkFactor
)
