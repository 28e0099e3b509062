package edu.anu.spice;

import edu.cmu.meteor.aligner.SynonymDictionary;
import edu.cmu.meteor.util.Constants;
import java.io.IOException;
import java.net.URL;
import java.util.ArrayList;
import java.util.List;

/**
 * Stands in the place of SPICE's parser, which needs the models of CoreNLP: each word of a caption
 * is an object of its scene graph. All the rest of SPICE is its own.
 */
public class SpiceParser {
    private final SynonymDictionary synonyms;

    public SpiceParser(String database, int threads, Boolean merge) {
        String folder = Constants.DEFAULT_SYN_DIR_URL.toString();
        try {
            synonyms =
                    new SynonymDictionary(
                            new URL(folder + "/english.exceptions"),
                            new URL(folder + "/english.synsets"),
                            new URL(folder + "/english.relations"));
        } catch (IOException error) {
            throw new IllegalStateException(error);
        }
    }

    public List<SceneGraph> parseCaptions(List<String> captions, List<Integer> chunks) {
        List<SceneGraph> graphs = new ArrayList<>();
        int start = 0;
        for (int chunk : chunks) {
            graphs.add(graph(String.join(" ", captions.subList(start, start + chunk))));
            start += chunk;
        }
        return graphs;
    }

    public List<SceneGraph> parseCaptions(List<String> captions) {
        List<SceneGraph> graphs = new ArrayList<>();
        for (String caption : captions) {
            graphs.add(graph(caption));
        }
        return graphs;
    }

    private SceneGraph graph(String caption) {
        SceneGraph graph = new SceneGraph(synonyms);
        for (String word : caption.split(" ")) {
            if (!word.isEmpty()) {
                graph.addObject(word);
            }
        }
        return graph;
    }
}
