package syntic;

import edu.cmu.meteor.scorer.MeteorConfiguration;
import edu.cmu.meteor.scorer.MeteorScorer;
import edu.cmu.meteor.util.Constants;
import edu.cmu.meteor.util.Normalizer;
import java.io.BufferedReader;
import java.io.IOException;
import java.io.InputStreamReader;
import java.io.PrintStream;
import java.nio.charset.StandardCharsets;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.HashSet;
import java.util.List;
import java.util.Map;
import java.util.Set;
import java.util.function.Function;
import java.util.stream.Collectors;
import java.util.stream.IntStream;

/**
 * METEOR's statistics of many captions, by METEOR's own scorer on all processors.
 *
 * <p>Usage: java -cp ... syntic.Meteor paraphrase-en.gz. Standard input holds an item a line, the
 * caption and its references parted by tabs, up to its end. Standard output holds the statistics
 * of each, a line, as METEOR's `-stdio -norm` prints them. Most of METEOR's time goes into its
 * table of paraphrases; here only those are loaded that the texts can use.
 */
public final class Meteor {
    private static final int BLOCK = 4096;

    private Meteor() {}

    public static void main(String[] arguments) throws IOException {
        ParaphraseTable table = new ParaphraseTable(Path.of(arguments[0]));
        List<String[]> items = read();
        Map<String, String> normalised = normalise(items);
        MeteorScorer scorer = scorer(table, normalised.values());
        ThreadLocal<MeteorScorer> scorers =
                ThreadLocal.withInitial(() -> new MeteorScorer(scorer));
        PrintStream out = new PrintStream(System.out, false, StandardCharsets.UTF_8);
        for (int start = 0; start < items.size(); start += BLOCK) {
            List<String[]> block = items.subList(start, Math.min(start + BLOCK, items.size()));
            String[] lines = new String[block.size()];
            IntStream.range(0, lines.length)
                    .parallel()
                    .forEach(i -> lines[i] = score(scorers.get(), block.get(i), normalised));
            for (String line : lines) {
                out.print(line + "\n");
            }
            out.flush();
        }
    }

    private static List<String[]> read() throws IOException {
        BufferedReader input =
                new BufferedReader(new InputStreamReader(System.in, StandardCharsets.UTF_8));
        List<String[]> items = new ArrayList<>();
        for (String line = input.readLine(); line != null; line = input.readLine()) {
            items.add(line.split("\t", -1));
        }
        return items;
    }

    /** Each distinct text as METEOR would normalise it anew for every use. */
    private static Map<String, String> normalise(List<String[]> items) {
        Normalizer.normalizeLine("", Constants.LANG_EN, true); // loads tables that threads share
        Set<String> texts = new HashSet<>();
        items.forEach(item -> texts.addAll(Arrays.asList(item)));
        return texts.parallelStream()
                .collect(
                        Collectors.toConcurrentMap(
                                Function.identity(),
                                text ->
                                        Normalizer.normalizeLine(text, Constants.LANG_EN, true)
                                                .toLowerCase()));
    }

    private static MeteorScorer scorer(ParaphraseTable table, Iterable<String> texts)
            throws IOException {
        MeteorConfiguration configuration = new MeteorConfiguration();
        configuration.setLanguage("en");
        configuration.setNormalization(Constants.NO_NORMALIZE);
        configuration.setParaFileURL(table.usedBy(texts));
        return new MeteorScorer(configuration);
    }

    private static String score(
            MeteorScorer scorer, String[] item, Map<String, String> normalised) {
        ArrayList<String> references = new ArrayList<>();
        for (int i = 1; i < item.length; i++) {
            references.add(normalised.get(item[i]));
        }
        return scorer.getMeteorStats(normalised.get(item[0]), references).toString();
    }
}
