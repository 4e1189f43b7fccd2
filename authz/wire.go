package authz

import (
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"encoding/binary"
	"math/bits"
	"slices"
	"strings"

	"golang.org/x/crypto/ssh"
)

// appendWire appends a key of a type in wire format (RFC 4253 section 6.6, RFC 5656
// section 3.1, RFC 8709 section 4), which is what key.Marshal returns. Nothing
// is allocated, but for a security key, whose application only it knows, and
// for what the buffer does not hold.
func appendWire(buf []byte, key ssh.PublicKey, t string) []byte {
	pub, ok := key.(ssh.CryptoPublicKey)
	if !ok || strings.HasPrefix(t, "sk-") {
		return append(buf, key.Marshal()...)
	}
	switch k := pub.CryptoPublicKey().(type) {
	case ed25519.PublicKey:
		if t == ssh.KeyAlgoED25519 {
			return appendString(appendString(buf, t), k)
		}
	case *rsa.PublicKey:
		if t == ssh.KeyAlgoRSA && k.E > 0 && k.N.Sign() > 0 {
			buf = appendMPInt(appendString(buf, t), bits.Len(uint(k.E)))
			for i := range bits.Len(uint(k.E))/8 + 1 {
				buf[len(buf)-1-i] = byte(k.E >> (8 * i))
			}
			n := k.N.BitLen()
			buf = appendMPInt(buf, n)
			k.N.FillBytes(buf[len(buf)-n/8-1:])
			return buf
		}
	case *ecdsa.PublicKey:
		if curve, ok := strings.CutPrefix(t, "ecdsa-sha2-"); ok && k.X != nil && k.Y != nil {
			n := (k.Curve.Params().BitSize + 7) / 8
			buf = appendString(appendString(buf, t), curve)
			buf = append(binary.BigEndian.AppendUint32(buf, uint32(1+2*n)), 4) // uncompressed
			buf = slices.Grow(buf, 2*n)
			at := len(buf)
			buf = buf[:at+2*n]
			k.X.FillBytes(buf[at : at+n])
			k.Y.FillBytes(buf[at+n:])
			return buf
		}
	}
	return append(buf, key.Marshal()...)
}

func appendString[S ~string | ~[]byte](buf []byte, s S) []byte {
	return append(binary.BigEndian.AppendUint32(buf, uint32(len(s))), s...)
}

// appendMPInt appends the length of a positive number of some bits, and room
// for it: one byte more where the highest bit would be taken for the sign.
func appendMPInt(buf []byte, bits int) []byte {
	n := bits/8 + 1
	buf = slices.Grow(binary.BigEndian.AppendUint32(buf, uint32(n)), n)
	return buf[:len(buf)+n]
}
