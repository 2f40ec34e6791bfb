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

// NamePKCS11 is what a pkcs11 URI comes down to, in builds without PKCS#11 too.
func NamePKCS11(uri string) (string, error) {
	u, err := parsePKCS11(uri)
	return u.String(), err
}

// SplitPKCS11 takes apart what a pkcs11 key wrapped.
var SplitPKCS11 = splitPKCS11

// Newer orders the ids of keys in a token.
var Newer = newer
