package syntic;

import java.io.ByteArrayInputStream;
import java.io.ByteArrayOutputStream;
import java.io.IOException;
import java.io.InputStream;
import java.net.URL;
import java.net.URLConnection;
import java.net.URLStreamHandler;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.BitSet;
import java.util.StringTokenizer;
import java.util.concurrent.BlockingQueue;
import java.util.concurrent.LinkedBlockingQueue;
import java.util.zip.GZIPInputStream;
import java.util.zip.GZIPOutputStream;

/**
 * METEOR's table of paraphrases, unpacked while the texts are still to come, then filtered.
 *
 * <p>An entry is three lines: a probability and two phrases. It can match only where both of them
 * are phrases of the texts. These are remembered as bits at their hashes: phrases that share a hash
 * keep an entry too many, which changes nothing.
 */
final class ParaphraseTable {
    private static final int WORDS = 7; // in the longest phrase of the table
    private static final int HASH_BITS = 25;
    private static final int PIECE = 1 << 20;
    private static final byte[] END = new byte[0];

    private final BlockingQueue<byte[]> pieces = new LinkedBlockingQueue<>();
    private volatile Throwable failure;

    ParaphraseTable(Path path) {
        Thread unpacker = new Thread(() -> unpack(path));
        unpacker.setDaemon(true);
        unpacker.start();
    }

    /** The entries of the table that texts can use, as a gzip file that is nowhere but in memory. */
    URL usedBy(Iterable<String> texts) throws IOException {
        BitSet phrases = phrases(texts);
        ByteArrayOutputStream packed = new ByteArrayOutputStream();
        try (GZIPOutputStream out = new GZIPOutputStream(packed, PIECE)) {
            filter(phrases, out);
        }
        if (failure != null) {
            throw new IOException("the table of paraphrases cannot be read: " + failure);
        }
        return inMemory(packed.toByteArray());
    }

    private void unpack(Path path) {
        try (InputStream in = new GZIPInputStream(Files.newInputStream(path), 1 << 16)) {
            for (byte[] piece = in.readNBytes(PIECE); piece.length > 0; ) {
                pieces.add(piece);
                piece = in.readNBytes(PIECE);
            }
        } catch (IOException | RuntimeException | Error error) {
            failure = error; // a table that is cut short must not pass for a whole one
        } finally {
            pieces.add(END);
        }
    }

    private void filter(BitSet phrases, GZIPOutputStream out) throws IOException {
        ByteArrayOutputStream entry = new ByteArrayOutputStream();
        int line = 0;
        int hash = 0;
        boolean used = true;
        for (byte[] piece = next(); piece != END; piece = next()) {
            int start = 0;
            for (int i = 0; i < piece.length; i++) {
                if (piece[i] != '\n') {
                    hash = 31 * hash + piece[i];
                    continue;
                }
                used = used && (line == 0 || phrases.get(bit(hash)));
                hash = 0;
                line = (line + 1) % 3;
                if (line == 0) {
                    if (used) {
                        entry.writeTo(out);
                        out.write(piece, start, i + 1 - start);
                    }
                    entry.reset();
                    start = i + 1;
                    used = true;
                }
            }
            entry.write(piece, start, piece.length - start);
        }
    }

    private byte[] next() {
        try {
            return pieces.take();
        } catch (InterruptedException error) {
            throw new IllegalStateException(error);
        }
    }

    private static BitSet phrases(Iterable<String> texts) {
        BitSet phrases = new BitSet(1 << HASH_BITS);
        for (String text : texts) {
            StringTokenizer tokens = new StringTokenizer(text);
            byte[][] words = new byte[tokens.countTokens()][];
            for (int i = 0; i < words.length; i++) {
                words[i] = tokens.nextToken().getBytes(StandardCharsets.UTF_8);
            }
            for (int first = 0; first < words.length; first++) {
                int hash = 0;
                for (int i = first; i < Math.min(words.length, first + WORDS); i++) {
                    hash = i == first ? hash : 31 * hash + ' ';
                    for (byte letter : words[i]) {
                        hash = 31 * hash + letter;
                    }
                    phrases.set(bit(hash));
                }
            }
        }
        return phrases;
    }

    /** The bit of a hash, which mixes its high bits into the low ones. */
    private static int bit(int hash) {
        return hash * 0x9E3779B1 >>> 32 - HASH_BITS;
    }

    /** A URL of its own protocol, since METEOR makes URLs anew from their text. */
    private static URL inMemory(byte[] content) throws IOException {
        URLStreamHandler handler =
                new URLStreamHandler() {
                    @Override
                    protected URLConnection openConnection(URL url) {
                        return new URLConnection(url) {
                            @Override
                            public void connect() {}

                            @Override
                            public InputStream getInputStream() {
                                return new ByteArrayInputStream(content);
                            }
                        };
                    }
                };
        URL.setURLStreamHandlerFactory(name -> name.equals("memory") ? handler : null);
        return new URL("memory:paraphrases");
    }
}
