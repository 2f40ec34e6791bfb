//go:build !pkcs11 || !cgo

package kms

import (
	"context"
	"errors"
)

func openToken(context.Context, pkcs11URI, PKCS11Options) (Key, error) {
	return nil, errors.New("this build has no PKCS#11: it takes cgo and the build tag pkcs11")
}
